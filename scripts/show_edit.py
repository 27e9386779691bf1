#!/usr/bin/python3
"""Prints a model's answers before and after an edit: the prompt, its paraphrases, its neighbours.

    show_edit.py LOCI MODEL REQUEST.json EDITS.h5      (REQUEST: a list of one CounterFact record)
"""
import json
import subprocess
import sys
import tempfile


def answers(loci, model, prompts, *edits):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(prompts, file)
        file.flush()
        out = subprocess.run([loci, "predict", model, "--prompts", file.name, "--top", "1", "--json", *edits], check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return [(r["tokens"][0]["text"].strip(), r["tokens"][0]["probability"]) for r in json.loads(out)["results"]]


def main():
    loci, model, request, edits = sys.argv[1:]
    record = json.load(open(request))[0]
    rewrite = record["requested_rewrite"]
    groups = [("prompt", [rewrite["prompt"].replace("{}", rewrite["subject"])]), ("paraphrase", record["paraphrase_prompts"]),
              ("neighbour", record["neighborhood_prompts"])]
    prompts = [(name, prompt) for name, group in groups for prompt in group]
    texts = [prompt for _, prompt in prompts]
    before, after = answers(loci, model, texts), answers(loci, model, texts, "--edits", edits)
    print(f"{'':11} {'':58} {'before':>22}  {'after':>22}")
    for (name, prompt), (old, p), (new, q) in zip(prompts, before, after):
        print(f"{name:11} {prompt[:58]:58} {old[:15]:>15} {100 * p:4.0f} %  {new[:15]:>15} {100 * q:4.0f} %")


if __name__ == "__main__":
    main()
