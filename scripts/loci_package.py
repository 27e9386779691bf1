"""Finds the package `loci` beside the scripts: in ../python of a checkout, in python of an installation."""
import importlib
import os
import sys


def load(module):
    """A module of the package. Ends the script with a sentence where a library is missing."""
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:0] = [os.path.join(here, "..", "python"), os.path.join(here, "python")]
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        print(f"{os.path.basename(sys.argv[0])}: Python's {missing.name} is missing; on Debian: apt install python3-h5py "
              "python3-matplotlib, for /usr/bin/python3", file=sys.stderr)
        sys.exit(2)
