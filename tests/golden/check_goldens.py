#!/usr/bin/python3
"""Compares loci with what the reference computed on the embedded model (embedded/), through the command line.

    check_goldens.py LOCI [--device cpu]

Exits with 77 (skipped) where the device is not there.

Bounds are those of fp32 against fp32: probabilities 1e-5 absolute, traces 1e-4, second moments 1e-5 relative, directions
1 - cosine 1e-5, NLL after an edit 2e-3. The reference prints losses rounded to 3 decimals.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from golden_inputs import NOISE, editing_moment, probe_vectors  # noqa: E402


MODEL, GOLDEN = os.path.join(HERE, "../../data/model"), os.path.join(HERE, "embedded")


class Check:
    def __init__(self, loci, device, work):
        self.loci_path, self.device, self.work, self.bad = loci, device, work, 0
        self.goldens = numpy.load(f"{GOLDEN}/goldens.npz")
        self.hparams = json.load(open(f"{GOLDEN}/hparams.json"))
        self.layer = self.hparams["layers"][0]
        self.records = json.load(open(f"{GOLDEN}/records.json"))

    def loci(self, command, *arguments):
        run = subprocess.run([self.loci_path, command, *map(str, arguments), "--device", self.device], capture_output=True, text=True)
        if "no CUDA device is usable here" in run.stderr:
            print("skipped:", run.stderr.strip())
            sys.exit(77)
        if run.returncode:
            sys.exit(f"loci {command} failed with {run.returncode}: {run.stderr[-2000:]}")
        return run.stdout

    def below(self, what, error, bound):
        fine = bool(error <= bound)  # false for NaN
        self.bad += not fine
        print(f"{'ok  ' if fine else 'FAIL'} {what}: {error:.3g} (bound {bound:g})", flush=True)

    def predict(self):
        out = json.loads(self.loci("predict", MODEL, "--prompts", f"{GOLDEN}/prompts.json", "--top", 20, "--json"))["results"]
        worst = 0.0
        for i, result in enumerate(out):
            logits = self.goldens[f"logits_{i}"].astype(numpy.float64)
            p = numpy.exp(logits - logits.max())
            p /= p.sum()
            worst = max([worst] + [abs(token["probability"] - p[token["id"]]) for token in result["tokens"]])
        self.below(f"probabilities of {len(out)} prompts", worst if out else numpy.nan, 1e-5)

    def trace(self):
        facts = json.load(open(f"{GOLDEN}/facts.json"))
        out = f"{self.work}/trace.h5"
        self.loci("trace", MODEL, "--facts", f"{GOLDEN}/facts.json", "--output", out, "--noise", NOISE, "--samples", 4, "--window", 3,
                  "--kinds", "state,mlp,attn", "--compat", "rome")
        self.loci("export", out, "--format", "npz", "--output", f"{self.work}/npz")
        for kind in ("state", "mlp", "attn"):
            worst = 0.0
            for fact in facts:
                suffix = "" if kind == "state" else "_" + kind
                ours = numpy.load(f"{self.work}/npz/knowledge_{fact['known_id']}{suffix}.npz", allow_pickle=True)
                name = f"trace_{fact['known_id']}_{kind}"
                worst = max(worst, numpy.abs(ours["scores"] - self.goldens[name]).max(),
                            numpy.abs(numpy.array([ours["low_score"], ours["high_score"]]) - self.goldens[name + "_low_high"]).max())
            self.below(f"{kind} traces of {len(facts)} facts", worst, 1e-4)

    def cov(self):
        out = f"{self.work}/cov.h5"
        self.loci("cov", MODEL, "--text", f"{GOLDEN}/documents.jsonl", "--layers", self.layer, "--output", out)
        self.loci("export", out, "--format", "npz", "--output", f"{self.work}/cov")
        ours = numpy.load(f"{self.work}/cov/transformer.h.{self.layer}.mlp.c_proj_float32_mom2.npz")
        self.below("second moment, tokens", abs(int(ours["mom2.count"]) - int(self.goldens["moment_count"])), 0)
        want = self.goldens["moment_products"]
        products = probe_vectors(want.shape[1]) @ ours["mom2.mom2"].astype(numpy.float64)
        self.below("second moment, products with fixed vectors, relative", numpy.abs(products - want).max() / numpy.abs(want).max(), 1e-5)

    def edit_flags(self):
        width = self.goldens["moment_products"].shape[1]
        moment = f"{self.work}/transformer.h.{self.layer}.mlp.c_proj_float32_mom2.npz"
        numpy.savez(moment, **{"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": numpy.array(1),
                               "mom2.mom2": editing_moment(width), "constructor": "util.runningstats.CombinedStat()"})
        return ["--method", "rome", "--cov", moment, "--hparams", f"{GOLDEN}/hparams.json", "--context-templates",
                f"{GOLDEN}/templates.json", "--compat", "rome"]

    def edit(self):
        out = f"{self.work}/edits.h5"
        self.loci("edit", MODEL, "--requests", f"{GOLDEN}/records.json", "--output", out, *self.edit_flags())
        cosine = lambda a, b: float(a @ b / numpy.sqrt((a @ a) * (b @ b)))  # noqa: E731
        with h5py.File(out) as edits:
            for i, record in enumerate(self.records):
                name, group = f"edit_{record['case_id']}", edits[f"edits/{i}"]
                u, v = (group[key][:].astype(numpy.float64) for key in "uv")
                self.below(f"{name}: 1 - cosine of u", 1 - cosine(u, self.goldens[name + "_u"].astype(numpy.float64)), 1e-5)
                self.below(f"{name}: 1 - cosine of v", 1 - cosine(v, self.goldens[name + "_v"].astype(numpy.float64)), 1e-5)
                norm = numpy.linalg.norm(self.goldens[name + "_u"]) * numpy.linalg.norm(self.goldens[name + "_v"])
                self.below(f"{name}: norm of the update, relative", abs(numpy.linalg.norm(u) * numpy.linalg.norm(v) / norm - 1), 1e-3)
                curve = group["loss_curve"][:, :4]  # total, NLL, KL, decay
                want = self.goldens[name + "_loss"]
                self.below(f"{name}: loss curve of {len(want)} steps",
                           numpy.abs(curve - want).max() if curve.shape == want.shape else numpy.inf, 1e-3)

    def eval(self):
        out = f"{self.work}/eval.h5"
        self.loci("eval", MODEL, "--dataset", "counterfact", "--records", f"{GOLDEN}/records.json", "--output", out, *self.edit_flags())
        self.loci("export", out, "--format", "cases", "--output", f"{self.work}/cases")
        worst = {"before": 0.0, "after": 0.0}
        for record in self.records:
            case = json.load(open(f"{self.work}/cases/case_{record['case_id']}.json"))
            for when, group in (("before", case["pre"]), ("after", case["post"])):
                for key in ("rewrite", "paraphrase", "neighborhood"):
                    want = self.goldens[f"edit_{record['case_id']}_{when}_{key}"]
                    ours = numpy.array([[r["target_new"], r["target_true"]] for r in group[f"{key}_prompts_probs"]]).reshape(-1, 2)
                    worst[when] = max(worst[when], numpy.abs(ours - want).max(initial=0) if ours.shape == want.shape else numpy.inf)
        self.below("NLL before the edits", worst["before"], 1e-3)
        self.below("NLL after the edits", worst["after"], 2e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loci")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        check = Check(os.path.abspath(arguments.loci), arguments.device, work)
        for part in (check.predict, check.trace, check.cov, check.edit, check.eval):
            part()
    sys.exit(1 if check.bad else 0)


if __name__ == "__main__":
    main()
