#!/usr/bin/python3
"""Draws the traces in a result file of `loci trace`."""
import sys

from loci_package import load

if __name__ == "__main__":
    sys.exit(load("loci.plots.trace").main())
