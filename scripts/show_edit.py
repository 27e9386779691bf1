#!/usr/bin/python3
"""Prints a model's answers before and after an edit: the prompt, its paraphrases, its neighbours.

    show_edit.py LOCI MODEL REQUEST.json EDITS.h5      (REQUEST: a list of one CounterFact record)
"""
import argparse
import json
import subprocess
import sys
import tempfile


def answers(loci, model, prompts, *edits):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(prompts, file)
        file.flush()
        run = subprocess.run([loci, "predict", model, "--prompts", file.name, "--top", "1", "--json", *edits], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr.strip() or f"show_edit.py: loci predict ended with exit code {run.returncode}")
    return [(r["tokens"][0]["text"].strip(), r["tokens"][0]["probability"]) for r in json.loads(run.stdout)["results"]]


def read_prompts(path):
    """(kind, prompt) of a record."""
    try:
        record = json.load(open(path, encoding="utf-8"))[0]
        rewrite = record["requested_rewrite"]
        groups = [("prompt", [rewrite["prompt"].replace("{}", rewrite["subject"])]), ("paraphrase", record.get("paraphrase_prompts", [])),
                  ("neighbour", record.get("neighborhood_prompts", []))]
    except OSError as error:
        sys.exit(f"show_edit.py: {path}: cannot be read: {error.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(f"show_edit.py: {path}: must hold a list of one CounterFact record: {type(error).__name__}: {error}")
    return [(kind, prompt) for kind, group in groups for prompt in group]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loci", metavar="LOCI", help="the program")
    parser.add_argument("model", metavar="MODEL", help="Hugging Face directory")
    parser.add_argument("request", metavar="REQUEST.json", help="a list of one CounterFact record")
    parser.add_argument("edits", metavar="EDITS.h5", help="what loci edit made of it")
    arguments = parser.parse_args()
    prompts = read_prompts(arguments.request)
    texts = [prompt for _, prompt in prompts]
    before = answers(arguments.loci, arguments.model, texts)
    after = answers(arguments.loci, arguments.model, texts, "--edits", arguments.edits)
    print(f"{'':11} {'':58} {'before':>22}  {'after':>22}")
    for (kind, prompt), (old, p), (new, q) in zip(prompts, before, after):
        print(f"{kind:11} {prompt[:58]:58} {old[:15]:>15} {100 * p:4.0f} %  {new[:15]:>15} {100 * q:4.0f} %")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # who read it has left
        sys.stderr.close()
