"""One self-contained page about results: `python -m loci.report A.h5 B.h5 --output report.html`, or write() from Python."""
from loci.report.page import write

__all__ = ["write"]
