"""How tests call mpirun."""
import os


def command(mpirun, ranks):
    return [mpirun, "--allow-run-as-root", "--oversubscribe", "-np", str(ranks)]


def environment():
    """The variables of ranks on one machine, which need no network."""
    return dict(
        os.environ,
        OMPI_MCA_btl="self,vader",
        # Containers often lack the right to read another process's memory, which Open MPI would use for long messages.
        OMPI_MCA_btl_vader_single_copy_mechanism="none",
        # Open MPI never frees some of its memory.
        ASAN_OPTIONS="detect_leaks=0",
    )
