#!/usr/bin/python3
"""Chooses the hyper-parameters of editing methods for the embedded model, on the records that are there for it.

    tune_methods.py --loci build/cpu/app/loci --cov COV.h5 [--methods memit,alphaedit] [--edits 60] [--output data/world/hparams]

COV.h5 holds second moments of layers 0 and 1 of the embedded model (loci cov). Every candidate edits the first `--edits` records of
data/world/records_tune.json in one chunk, and the one with the highest score (harmonic mean of efficacy, paraphrase and
neighborhood) is written to OUTPUT/METHOD.json. OUTPUT/sweep.csv holds all of them: the records of a method that is tuned again are
replaced.
"""
import argparse
import csv
import itertools
import json
import os
import subprocess
import tempfile

WORLD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "data", "world")
VALUE = {"fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 0.3, "v_weight_decay": 0.5, "kl_factor": 0.0625}
LAYERWISE = VALUE | {"clamp_norm_factor": [0.75, 4]}
# What a list holds is tried; `layers` and `edit_modules` are lists by themselves.
GRIDS = {
    "memit": LAYERWISE | {"layers": [[0], [0, 1]], "mom2_update_weight": [0.3, 3, 30]},
    "emmet": LAYERWISE | {"layers": [[0]], "mom2_update_weight": [0.3, 3], "emmet_lambda": [0.1, 1]},
    "alphaedit": LAYERWISE | {"layers": [[0]], "nullspace_threshold": [0.03, 0.3, 3], "L2": [0.1, 1]},
    "pmet": LAYERWISE | {"layers": [[0]], "mom2_update_weight": [0.3, 3], "kl_factor": 1, "v_lr": 0.2},
    "ft": {"layers": [[0], [1]], "num_steps": 25, "lr": [5e-4, 2e-3]},
    "ft-l": {"layers": [[0], [1]], "num_steps": 25, "lr": [5e-4, 2e-3], "norm_constraint": [5e-3, 2e-2]},
    "ft-m": {"layers": [[0], [1]], "num_steps": 25, "lr": [5e-4, 2e-3]},
    "kn": {"steps": 20, "adaptive_threshold": [0.2, 0.4, 0.6]},
    "ultraedit": {"edit_modules": [["transformer.h.0.mlp.c_proj"], ["transformer.h.1.mlp.c_proj"], ["transformer.h.0.mlp.c_fc"]],
                  "lr": [1e-5, 1e-4, 1e-3], "batch_size": 10, "n_edits": 100},
}
NEEDS_SECOND_MOMENTS = ("memit", "emmet", "alphaedit", "pmet")


def candidates(grid):
    keys = list(grid)
    choices = [value if isinstance(value, list) else [value] for value in grid.values()]
    return [dict(zip(keys, values)) for values in itertools.product(*choices)]


def score(options, method, hparams, folder):
    """{"ES": .., "PS": .., "NS": .., "score": .., "failure": ..} of one candidate."""
    paths = {name: os.path.join(folder, name) for name in ("hparams.json", "comparison.h5", "tables")}
    json.dump(hparams, open(paths["hparams.json"], "w"))
    command = [options.loci, "eval", os.path.join(WORLD, "..", "model"), "--dataset", "counterfact", "--records",
               os.path.join(WORLD, "records_tune.json"), "--limit", options.edits, "--methods", method, "--edits-at", options.edits,
               "--hparams", paths["hparams.json"], "--output", paths["comparison.h5"], "--overwrite", "--json", "--quiet"]
    if method in NEEDS_SECOND_MOMENTS:
        command += ["--cov", options.cov, "--context-templates", os.path.join(WORLD, "context_templates.json")]
    printed = json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)
    row = printed["rows"][-1]
    if row.get("failure"):
        return {"score": 0.0, "failure": row["failure"]}
    return {key: row[key] for key in ("ES", "PS", "NS", "score")} | {"failure": ""}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loci", required=True)
    parser.add_argument("--cov", required=True)
    parser.add_argument("--methods", default=",".join(GRIDS))
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--output", default=os.path.join(WORLD, "hparams"))
    options = parser.parse_args()
    os.makedirs(options.output, exist_ok=True)
    columns = ["method", "edits", "score", "ES", "PS", "NS", "failure", "hparams"]
    sweep = os.path.join(options.output, "sweep.csv")
    methods = options.methods.split(",")
    rows = [row for row in csv.DictReader(open(sweep))] if os.path.exists(sweep) else []
    rows = [row for row in rows if row["method"] not in methods]
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            best = None
            for hparams in candidates(GRIDS[method]):
                found = score(options, method, hparams, folder)
                rows.append({"method": method, "edits": options.edits, "hparams": json.dumps(hparams)} |
                            {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in found.items()})
                print(method, f"{found['score']:.4f}", json.dumps(hparams), found["failure"], flush=True)
                if best is None or found["score"] > best[0]:
                    best = (found["score"], hparams)
            with open(os.path.join(options.output, f"{method}.json"), "w") as file:
                file.write(json.dumps(best[1], indent=2) + "\n")
            with open(sweep, "w", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
