#!/usr/bin/python3
"""Messages of the libraries name options by option("samples"), since not every program that uses them has a command line.

    check_messages.py
"""
import glob
import os
import re
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
LIBRARIES = ("runtime", "kernels", "records", "model", "trace", "edit", "eval")
TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"')
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OTHERS = {"srun": {"--mpi"}, "xz": {"--format"}}  # flags of other programs, in texts that name the program


def flags(line):
    """Flags in the texts of a line of code."""
    for text in TEXT.findall("" if line.lstrip().startswith("//") else line):
        allowed = set().union(*(known for program, known in OTHERS.items() if program in text))
        yield from (flag for flag in FLAG.findall(text) if flag not in allowed)


def main():
    paths = [path for library in LIBRARIES for ending in ("cpp", "h", "cu") for path in glob.glob(f"{library}/**/*.{ending}", root_dir=ROOT, recursive=True)]
    faults = []
    for path in sorted(paths):
        with open(os.path.join(ROOT, path)) as file:
            for number, line in enumerate(file, 1):
                faults += [f'{path}:{number}: {flag} in a message; write option("{flag[2:]}")' for flag in flags(line)]
    if not paths:
        faults.append("no sources were found")
    print("\n".join(faults) or f"{len(paths)} sources: no flag in a message")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
