#!/usr/bin/python3
"""Writes a page with all figures and tables of a folder: DIR/index.html.

    contact_sheet.py DIR [--title TEXT]

The page is static and names its files relative to itself, so the folder can be moved or served as it is.
"""
import argparse
import csv
import html
import os
import pathlib
import sys
import urllib.parse

IMAGES = (".png", ".svg")
MOST_ROWS = 30  # of a table; the rest is in its file
STYLE = """body { font-family: sans-serif; margin: 2em; max-width: 1400px }
.figures { display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start }
figure { margin: 0; border: 1px solid #ddd; padding: .5em } figure img { max-width: 640px; height: auto }
figcaption { font-size: .8em; color: #555 } table { border-collapse: collapse; font-size: .8em }
td, th { border: 1px solid #ccc; padding: .2em .5em; text-align: left } pre { background: #f6f6f6; padding: 1em; overflow-x: auto }"""


def link(path):
    return html.escape(urllib.parse.quote(path.as_posix()), quote=True)


def figure(folder, path):
    name = path.relative_to(folder)
    return f'<figure><a href="{link(name)}"><img src="{link(name)}" alt="{html.escape(str(name), quote=True)}" loading="lazy"></a>' \
           f"<figcaption>{html.escape(str(name))}</figcaption></figure>"


def table(folder, path):
    name = path.relative_to(folder)
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.reader(file))
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:1 + MOST_ROWS])
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0]) if rows else ""
    more = f"<p>{len(rows) - 1 - MOST_ROWS} more rows are in the file.</p>" if len(rows) - 1 > MOST_ROWS else ""
    return f'<h3><a href="{link(name)}">{html.escape(str(name))}</a></h3>\n<table><tr>{head}</tr>\n{body}</table>{more}'


def text(folder, path):
    name = path.relative_to(folder)
    return f'<h3><a href="{link(name)}">{html.escape(str(name))}</a></h3>\n<pre>{html.escape(path.read_text(errors="replace"))}</pre>'


def natural(path):
    """heatmap_4 before heatmap_12."""
    parts, digits = [], ""
    for c in str(path) + "\0":
        if c.isdigit():
            digits += c
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, c))
    return parts


def page(folder, title):
    # The texts of a model's folder are its tokenizer's.
    files = sorted((p for p in folder.rglob("*") if p.is_file() and not (p.parent / "config.json").exists()), key=natural)
    parts = []
    for kinds, show, before, after in ((IMAGES, figure, '<div class="figures">', "</div>"), ((".txt",), text, "", ""), ((".csv",), table, "", "")):
        for place in sorted({p.parent for p in files if p.suffix in kinds}):
            shown = [show(folder, p) for p in files if p.parent == place and p.suffix in kinds]
            parts.append(f"<h2>{html.escape(str(place.relative_to(folder)))}</h2>{before}" + "\n".join(shown) + after)
    if not parts:
        sys.exit(f"contact_sheet.py: {folder}: there are no figures (.png, .svg), texts (.txt) or tables (.csv) in it")
    return f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n' \
           f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--title", help="heading of the page (default: the folder's name)")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder}: is not a folder")
    content = page(arguments.folder, arguments.title or arguments.folder.resolve().name)
    part = arguments.folder / "index.html.part"
    part.write_text(content, encoding="utf-8")
    os.replace(part, arguments.folder / "index.html")
    print(arguments.folder / "index.html")


if __name__ == "__main__":
    main()
