#!/usr/bin/python3
"""Runs the Python snippets of docs/results_in_python.md on small results that loci makes, and compares what they print.

    run_snippets.py LOCI             checks; numbers may differ, words and their places may not
    run_snippets.py LOCI --update    writes what the snippets print into the page
"""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
PAGE = os.path.join(ROOT, "docs/results_in_python.md")
WORLD = os.path.join(ROOT, "data/world")
SNIPPET = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```\n", re.DOTALL)
NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]\d+)?")


def make_results(loci, folder):
    def run(*arguments):
        subprocess.run([loci, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    os.symlink(os.path.join(ROOT, "data/model"), os.path.join(folder, "model"))
    subprocess.run([sys.executable, os.path.join(ROOT, "scripts/world/make_world.py"), "--epochs", "3", "--out", folder,
                    "--text", folder], check=True, stdout=subprocess.DEVNULL)
    method = ("--cov", "cov.h5", "--hparams", f"{WORLD}/hparams.json", "--context-templates", f"{WORLD}/context_templates.json")
    run("cov", "model", "--text", "train.jsonl", "--layers", "0", "--max-tokens", "20000", "--output", "cov.h5")
    run("trace", "model", "--facts", f"{WORLD}/known_facts.json", "--limit", "3", "--window", "1", "--output", "trace.h5")
    run("edit", "model", "--requests", f"{WORLD}/demo_request.json", "--output", "edits.h5", *method)
    run("eval", "model", "--dataset", "counterfact", "--records", f"{WORLD}/records_tune.json", "--limit", "2", "--output",
        "eval.h5", *method)
    run("tokenize", "model", "--text", "valid.jsonl", "--output", "tokens.h5")


def printed(code, folder):
    result = subprocess.run([sys.executable, "-"], input=code, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"this snippet fails:\n{code}\n{result.stderr}")
    return result.stdout


def shape(text):
    """Numbers may differ in their last digits, and so in their width."""
    return " ".join(NUMBER.sub("0", text).split())


def main():
    loci, update = os.path.abspath(sys.argv[1]), sys.argv[2:] == ["--update"]
    with open(PAGE) as file:
        page = file.read()
    snippets = SNIPPET.findall(page)
    if len(snippets) != page.count("```python"):
        sys.exit(f"{PAGE}: a Python snippet has no ```text block with its output after it")
    with tempfile.TemporaryDirectory() as folder:
        make_results(loci, folder)
        outputs = [printed(code, folder) for code, _ in snippets]
    if update:
        fresh = iter(outputs)
        with open(PAGE, "w") as file:
            file.write(SNIPPET.sub(lambda match: f"```python\n{match[1]}```\n\n```text\n{next(fresh)}```\n", page))
        return
    for (code, expected), output in zip(snippets, outputs):
        if not output or shape(output) != shape(expected):
            sys.exit(f"{PAGE}: a snippet prints something else (run this script with --update).\n{code}\nexpected:\n{expected}\n"
                     f"printed:\n{output}")
    print(f"{len(snippets)} snippets print what the page says")


if __name__ == "__main__":
    main()
