#!/usr/bin/python3
"""How many facts of the world a model answers: in phrasings it was trained on, and in ones held out for the subject.

    scripts/world/check_recall.py LOCI MODEL [--known 0.95] [--held-out 0.90]

A fact counts as answered where the most probable next token begins its object. Exits 1 below the bounds.
"""

import argparse
import json
import pathlib
import subprocess
import sys

WORLD = pathlib.Path(__file__).resolve().parents[2] / "data/world"


def recall(loci, model, facts_file):
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    output = subprocess.run([loci, "predict", model, "--prompts", facts_file, "--top", "1", "--json"], check=True,
                            capture_output=True, text=True).stdout
    answers = [entry["tokens"][0]["text"].strip() for entry in json.loads(output)["results"]]
    right = [bool(answer) and fact["attribute"].startswith(answer) for fact, answer in zip(facts, answers, strict=True)]
    return sum(right) / len(right)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loci")
    parser.add_argument("model")
    parser.add_argument("--known", type=float, default=0.95)
    parser.add_argument("--held-out", type=float, default=0.90)
    options = parser.parse_args()
    known = recall(options.loci, options.model, WORLD / "known_facts.json")
    held_out = recall(options.loci, options.model, WORLD / "heldout_facts.json")
    print(f"facts answered: {known:.1%} in a phrasing seen in training, {held_out:.1%} in one never seen with the subject")
    return 0 if known >= options.known and held_out >= options.held_out else 1


if __name__ == "__main__":
    sys.exit(main())
