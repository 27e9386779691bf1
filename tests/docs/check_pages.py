#!/usr/bin/python3
"""The project's Markdown pages: links lead to a file or heading, JSON can be parsed, and loci has the flags that are shown.

    check_pages.py LOCI
"""
import glob
import json
import os
import re
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"\bloci +([a-z]+)\b([^|;&#\n]*)")
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")


def read(page):
    with open(os.path.join(ROOT, page)) as file:
        return file.read()


def anchors(page):
    """Anchors of headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h).lower()).replace(" ", "-") for h in headings}


def broken_links(page, text):
    for link in LINK.findall(BLOCK.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), file)) if file else page
        if not os.path.exists(os.path.join(ROOT, target)):
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading"


def broken_json(text):
    for language, block in BLOCK.findall(text):
        if language == "json":
            try:
                json.loads(block)
            except ValueError as error:
                yield f"this JSON cannot be parsed ({error}):\n{block}"


class Commands:
    """The subcommands of loci and their flags, from its help."""

    def __init__(self, loci):
        self.loci, self.flags = loci, {}
        self.names = set(re.findall(r"^  ([a-z]+) ", self.help(), re.MULTILINE))

    def help(self, *command):
        return subprocess.run([self.loci, *command, "--help"], capture_output=True, text=True, check=True).stdout

    def unknown_flags(self, text):
        code = [block for language, block in BLOCK.findall(text) if language in ("sh", "console")]
        code += [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
        for name, arguments in COMMAND.findall("\n".join(code).replace("\\\n", " ")):
            flags = FLAG.findall(arguments)
            if name not in self.names or not flags:
                continue
            if name not in self.flags:
                self.flags[name] = set(FLAG.findall(self.help(name)))
            for flag in flags:
                if flag not in self.flags[name]:
                    yield f"loci {name} has no flag {flag}"


def main():
    commands = Commands(sys.argv[1])
    pages = sorted(page for pattern in ("*.md", "docs/*.md", "tests/*.md") for page in glob.glob(pattern, root_dir=ROOT))
    faults = [f"{page}: {fault}" for page in pages for text in [read(page)]
              for fault in [*broken_links(page, text), *broken_json(text), *commands.unknown_flags(text)]]
    if not pages or not commands.names:
        faults.append("no pages or no commands were found")
    print("\n".join(faults) or f"{len(pages)} pages, {len(commands.flags)} commands: all as it should be")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
