#!/usr/bin/python3
"""Writes slice K of N (K from 0) of a JSON list of facts, requests or records to FOLDER and prints the file's path.

    slice.py FILE.json K N FOLDER

Slices are runs of neighbours, of equal length or one more. The same call writes the same bytes, so that a job that is
started again finds its input unchanged.
"""
import json
import os
import sys


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    path, part, parts, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if not 0 <= part < parts:
        sys.exit(f"slice.py: there is no slice {part} of {parts}; SLICES and the tasks of the array (from 0) must fit")
    with open(path, encoding="utf-8") as file:
        records = json.load(file)
    if not isinstance(records, list) or len(records) < parts:
        sys.exit(f"slice.py: {path} is not a list of at least {parts} records")
    chosen = records[part * len(records) // parts:(part + 1) * len(records) // parts]
    name = os.path.splitext(os.path.basename(path))[0]
    output = os.path.join(folder, f"{name}.{part}-of-{parts}.json")
    os.makedirs(folder, exist_ok=True)
    # A task that is queued again may meet its own former start.
    temporary = f"{output}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(chosen, file, ensure_ascii=False)
    os.replace(temporary, output)
    print(output)


if __name__ == "__main__":
    main()
