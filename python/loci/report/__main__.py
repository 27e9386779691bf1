"""python -m loci.report A.h5 B.h5 --output report.html"""
import argparse
import sys

from loci.errors import LociError
from loci.report import write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loci.report", description="Writes one self-contained HTML page about results of loci.")
    parser.add_argument("files", nargs="+", metavar="RESULT.h5", help="results of any kind, in the order of the page")
    parser.add_argument("--output", required=True, metavar="FILE.html", help="the page")
    parser.add_argument("--title", default="loci report", metavar="TEXT", help="of the page")
    arguments = parser.parse_args()
    try:
        print(write(arguments.files, arguments.output, arguments.title))
    except LociError as error:
        print(f"loci.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
