#!/usr/bin/python3
"""Runs the commands of README.md and the Python snippets of two pages, and compares what they print.

    run_snippets.py LOCI             checks; numbers may differ, words and their order may not
    run_snippets.py LOCI --update    writes what is printed into the pages
"""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
WORLD = os.path.join(ROOT, "data/world")
SNIPPET = re.compile(r"(?P<head>```python\n(?P<code>.*?)```\n\n```text\n)(?P<output>.*?)(?P<tail>```\n)", re.DOTALL)
# In README.md: a JSON block belongs to the file that the text before it names last.
FILE = re.compile(r"`(?P<name>\w+\.json)`(?:(?!`\w+\.json`).)*?```json\n(?P<text>.*?)```\n", re.DOTALL)
COMMAND = re.compile(r"(?P<head>^\$ (?P<code>[^\n]*)\n)(?P<output>(?:(?!\$ |```).*\n)*)(?P<tail>)", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?")


def make_results(loci, folder):
    """The files that the snippets read."""
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
    os.mkdir(os.path.join(folder, "hparams"))
    os.symlink(f"{WORLD}/hparams.json", os.path.join(folder, "hparams/rome.json"))
    with open(os.path.join(folder, "hparams/ft.json"), "w") as file:
        file.write('{"layers": [0]}')
    run("eval", "model", "--dataset", "counterfact", "--records", f"{WORLD}/records_tune.json", "--limit", "4", "--methods", "rome,ft",
        "--edits-at", "1,4", "--text", "valid.jsonl", "--text-limit", "500", "--output", "comparison.h5", "--cov", "cov.h5", "--hparams",
        "hparams", "--context-templates", f"{WORLD}/context_templates.json")
    run("tokenize", "model", "--text", "valid.jsonl", "--output", "tokens.h5")


def make_checkout(loci, folder):
    """A folder like a checkout's root, with `loci` in the search path of its commands; the JSON files of README.md."""
    for name in "data", "scripts":
        os.symlink(os.path.join(ROOT, name), os.path.join(folder, name))
    os.mkdir(os.path.join(folder, "out"))
    os.mkdir(os.path.join(folder, "bin"))
    os.symlink(loci, os.path.join(folder, "bin/loci"))
    for match in FILE.finditer(read("README.md")):
        with open(os.path.join(folder, match["name"]), "w") as file:
            file.write(match["text"])


def read(page):
    with open(os.path.join(ROOT, page)) as file:
        return file.read()


def printed(command, code, folder, loci):
    path = {"PATH": f"{folder}/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "LOCI": loci,
            "PYTHONPATH": os.path.join(ROOT, "python")}
    result = subprocess.run(command, input=code, cwd=folder, capture_output=True, text=True, env={**os.environ, **path})
    if result.returncode != 0:
        sys.exit(f"this fails:\n{code}\n{result.stderr}")
    return result.stdout


def shape(text):
    """Numbers may differ in their last digits, and so in their width."""
    return " ".join(NUMBER.sub("0", text).split())


def check_pages(pages, pattern, command, prepare, loci, update):
    with tempfile.TemporaryDirectory() as folder:
        prepare(loci, folder)
        for page in pages:
            check_page(page, pattern, lambda code: printed(command, code, folder, loci), update)


def check_page(page, pattern, run, update):
    text = read(page)
    parts = [(match, run(match["code"])) for match in pattern.finditer(text)]
    if not parts or pattern is SNIPPET and len(parts) != text.count("```python"):
        sys.exit(f"{page}: has no snippet, or one without its output after it")
    if update:
        outputs = iter(output for _, output in parts)
        with open(os.path.join(ROOT, page), "w") as file:
            file.write(pattern.sub(lambda match: match["head"] + next(outputs) + match["tail"], text))
        return
    for match, output in parts:
        if shape(output) != shape(match["output"]):
            sys.exit(f"{page}: prints something else now (run this script with --update):\n{match['code']}\nexpected:\n"
                     f"{match['output']}\nprinted:\n{output}")
    print(f"{page}: {len(parts)} snippets print what the page says")


def main():
    loci, update = os.path.abspath(sys.argv[1]), sys.argv[2:] == ["--update"]
    check_pages(["README.md"], COMMAND, ["bash"], make_checkout, loci, update)
    check_pages(["docs/results_in_python.md", "docs/python.md"], SNIPPET, [sys.executable, "-"], make_results, loci, update)


if __name__ == "__main__":
    main()
