#!/usr/bin/env python3
"""Writes model/unicode_tables.cpp: letter, number or space, for every code point.

    make_unicode_tables.py [--ucd DIR] [--output FILE] [--check]

The pre-tokenizer's regular expression asks three questions of a character: \\p{L}, \\p{N}, \\s (the property White_Space).
The answers depend on the version of Unicode; the tables hold the one that Hugging Face's tokenizers use (16.0), so that
the ids agree on every code point. They are read from UnicodeData.txt and PropList.txt of that version where --ucd names
a folder with them, else from Python: `unicodedata` where it has this version (Python 3.14), or the package
`unicodedata2` (16.0.0). --check writes nothing and exits 1 if the file differs.
"""
import argparse
import pathlib
import sys

VERSION = "16.0.0"
LIMIT = 0x110000
BLOCK = 256  # code points in a block; four code points in a byte
CLASSES = {"O": 0, "L": 1, "N": 2, "S": 3}  # the order of enum CharClass

# The property White_Space, unchanged since Unicode 6.3 (PropList.txt).
WHITE_SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def categories_of_python():
    """General categories from a Python module of the wanted version."""
    for name in ("unicodedata", "unicodedata2"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        if module.unidata_version == VERSION:
            return [module.category(chr(c)) for c in range(LIMIT)], WHITE_SPACE
    sys.exit(f"no Python module with Unicode {VERSION}: install unicodedata2=={VERSION}, or give --ucd")


def categories_of_ucd(folder):
    """General categories and White_Space from the Unicode Character Database's files."""
    properties = (folder / "PropList.txt").read_text()
    if f"PropList-{VERSION}" not in properties.splitlines()[0]:
        sys.exit(f"{folder}/PropList.txt is not of Unicode {VERSION}")
    spaces = set()
    for line in properties.splitlines():
        fields = [x.strip() for x in line.split("#")[0].split(";")]
        if len(fields) == 2 and fields[1] == "White_Space":
            ends = [int(x, 16) for x in fields[0].split("..")]
            spaces.update(range(ends[0], ends[-1] + 1))
    result, first = ["Cn"] * LIMIT, None
    for line in (folder / "UnicodeData.txt").read_text().splitlines():
        code, name, category = line.split(";")[:3]
        last = int(code, 16)
        first = last if first is None else first
        if name.endswith(", First>"):
            continue
        result[first:last + 1] = [category] * (last + 1 - first)
        first = None
    return result, spaces


def two_stages(classes):
    """The distinct blocks, four code points a byte, and the index of every block."""
    blocks, index = {}, []
    for begin in range(0, LIMIT, BLOCK):
        part = classes[begin:begin + BLOCK]
        packed = bytes(sum(part[i + j] << (2 * j) for j in range(4)) for i in range(0, BLOCK, 4))
        index.append(blocks.setdefault(packed, len(blocks)))
    return list(blocks), index


def rows(values, per_line=24):
    values = [str(v) for v in values]
    return "\n".join("    " + ", ".join(values[i:i + per_line]) + "," for i in range(0, len(values), per_line))


def source(classes):
    blocks, index = two_stages(classes)
    assert len(blocks) <= 256
    counts = [sum(c == k for c in classes) for k in range(4)]
    return f"""// Written by scripts/make_unicode_tables.py from Unicode {VERSION}; do not edit.
// {counts[1]} letters, {counts[2]} numbers, {counts[3]} spaces.
// clang-format off
#include "model/unicode_tables.h"

namespace loci::unicode {{

const std::uint8_t kBlockOfCodePoint[{len(index)}] = {{
{rows(index)}
}};

const std::uint8_t kBlocks[{len(blocks)}][{BLOCK // 4}] = {{
""" + "\n".join("    {" + ", ".join(str(b) for b in block) + "}," for block in blocks) + """
};

}  // namespace loci::unicode
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ucd", type=pathlib.Path, metavar="DIR", help="folder with UnicodeData.txt and PropList.txt")
    here = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--output", type=pathlib.Path, default=here / "model" / "unicode_tables.cpp", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    categories, spaces = categories_of_ucd(args.ucd) if args.ucd else categories_of_python()
    classes = [CLASSES["S" if c in spaces else g[0] if g[0] in "LN" else "O"] for c, g in enumerate(categories)]
    text = source(classes)
    if args.check:
        sys.exit(0 if args.output.read_text() == text else f"{args.output} differs from Unicode {VERSION}")
    args.output.write_text(text)


if __name__ == "__main__":
    main()
