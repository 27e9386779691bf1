"""What make_goldens.py and check_goldens.py must agree on beside the files in embedded/."""
import numpy

NOISE = 0.3
VECTORS = 4


def probe_vectors(width):
    """[VECTORS, width] fixed vectors; a second moment is compared through its products with them."""
    return numpy.random.RandomState(3).randn(VECTORS, width)


def editing_moment(width):
    """A well-conditioned C [width, width] from small integers, so that edits do not depend on a collected one."""
    index = numpy.arange(width)
    factors = numpy.stack([((index * m) % 11 - 5) for m in (3, 7, 13, 17)]).astype(numpy.float64)
    return (numpy.diag(0.5 + (index % 7) / 7) + factors.T @ factors / 64).astype(numpy.float32)
