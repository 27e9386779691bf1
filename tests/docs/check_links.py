#!/usr/bin/python3
"""Every relative link in the project's Markdown leads to a file, and to a heading of it where it names one."""
import os
import re
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text_of(path):
    with open(path) as file:
        return CODE.sub("", file.read())


def anchors(path):
    """Anchors of headings, made as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h).lower()).replace(" ", "-") for h in headings}


def main():
    pages = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout.split()
    links, broken = 0, []
    for page in pages:
        for link in LINK.findall(text_of(os.path.join(ROOT, page))):
            if re.match(r"[a-z]+:", link):
                continue
            links += 1
            file, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(ROOT, os.path.dirname(page), file)) if file else os.path.join(ROOT, page)
            if not os.path.exists(target):
                broken.append(f"{page}: {link}: no such file")
            elif anchor and anchor not in anchors(target):
                broken.append(f"{page}: {link}: no such heading")
    print("\n".join(broken) or f"{links} links of {len(pages)} pages lead somewhere")
    return bool(broken) or links == 0


if __name__ == "__main__":
    sys.exit(main())
