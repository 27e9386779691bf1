#!/usr/bin/python3
"""Draws a comparison of methods, a result file of `loci eval --methods`."""
import sys

from loci_package import load

if __name__ == "__main__":
    sys.exit(load("loci.plots.comparison").main())
