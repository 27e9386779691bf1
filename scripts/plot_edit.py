#!/usr/bin/python3
"""Draws the edits in a result file of `loci edit`."""
import sys

from loci_package import load

if __name__ == "__main__":
    sys.exit(load("loci.plots.edit").main())
