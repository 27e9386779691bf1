#!/usr/bin/env python3
"""What a device and a precision change in the numbers that people read, and whether the same job twice gives equal bits.

    precision.py LOCI [--device cuda] [--precisions fp32,tf32,bf16] [--golden DIR] --output FILE.json

Predictions, traces, edits and scores of the embedded model, and of DIR (the reference's outputs) where it is given. Each is
run in every precision on the device, twice, and once in fp32 on the CPU; deviations are from fp32 on the same device. Exits
with 1 where two runs of one job differ in a bit.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import h5py
import numpy

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
EMBEDDED = os.path.join(ROOT, "tests/golden/embedded")
sys.path.insert(0, os.path.join(ROOT, "tests/golden"))
from golden_inputs import NOISE, editing_moment  # noqa: E402

# What a file says about the run, not about its result.
ABOUT_THE_RUN = {"created", "date", "time", "seconds", "started", "finished", "command", "host", "output",
                 "peak_memory", "DIMENSION_LIST", "REFERENCE_LIST"}  # the last two are HDF5's own references


def embedded_case(work):
    config = json.load(open(f"{ROOT}/data/model/config.json"))
    hparams = f"{EMBEDDED}/hparams.json"
    layer = json.load(open(hparams))["layers"][0]
    moment = f"{work}/transformer.h.{layer}.mlp.c_proj_float32_mom2.npz"
    numpy.savez(moment, **{"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": numpy.array(1),
                           "mom2.mom2": editing_moment(config.get("n_inner") or 4 * config["n_embd"]),
                           "constructor": "util.runningstats.CombinedStat()"})
    return {"model": f"{ROOT}/data/model", "prompts": f"{EMBEDDED}/prompts.json", "facts": f"{EMBEDDED}/facts.json",
            "trace": ["--noise", NOISE, "--samples", 4, "--window", 3], "records": f"{EMBEDDED}/records.json",
            "edit": ["--cov", moment, "--hparams", hparams, "--context-templates", f"{EMBEDDED}/templates.json"], "limit": 3}


def golden_case(golden, work):
    prompts = f"{work}/prompts.json"
    json.dump([str(p) for p in numpy.load(f"{golden}/logits.npz")["prompts"]], open(prompts, "w"))
    layer = json.load(open(f"{golden}/edit/hparams.json"))["layers"][0]
    return {"model": f"{golden}/model", "prompts": prompts, "facts": f"{golden}/trace/facts.json",
            "trace": ["--noise", repr(float(numpy.load(f"{golden}/trace/noise.npz")["level"])), "--limit", 20, "--compat", "rome"],
            "records": f"{golden}/eval/counterfact_records.json",
            "edit": ["--cov", f"{golden}/cov/transformer.h.{layer}.mlp.c_proj_float32_mom2.npz", "--hparams",
                     f"{golden}/edit/hparams.json", "--context-templates", f"{golden}/edit/context_templates.json"], "limit": 20}


class Jobs:
    """The four jobs of one case on one device in one precision; files and results under a name."""

    def __init__(self, loci, case, device, precision, name):
        self.loci_path, self.case, self.name = loci, case, name
        self.flags = ["--device", device, "--precision", precision]

    def loci(self, command, *arguments):
        line = [self.loci_path, command, *map(str, arguments), *(self.flags if command != "export" else [])]
        run = subprocess.run(line, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{' '.join(line)} failed with {run.returncode}: {run.stderr[-1500:]}")
        return run.stdout

    def run(self):
        case, name = self.case, self.name
        # --compat belongs to the case; edits take it from the same place.
        compat = ["--compat", "rome"] if "rome" in map(str, case["trace"]) else []
        self.predicted = json.loads(self.loci("predict", case["model"], "--prompts", case["prompts"], "--top", 10**6, "--json"))
        self.loci("trace", case["model"], "--facts", case["facts"], "--output", f"{name}_trace.h5", *case["trace"])
        edit = ["--method", "rome", "--limit", case["limit"], *case["edit"], *compat]
        self.loci("edit", case["model"], "--requests", case["records"], "--output", f"{name}_edit.h5", *edit)
        self.loci("eval", case["model"], "--dataset", "counterfact", "--records", case["records"], "--output",
                  f"{name}_eval.h5", *edit)
        self.loci("export", f"{name}_eval.h5", "--format", "cases", "--output", f"{name}_cases")
        return self

    def log_probabilities(self):
        rows = []
        for result in self.predicted["results"]:
            row = numpy.empty(len(result["tokens"]))
            for token in result["tokens"]:
                row[token["id"]] = token["probability"]
            rows.append(numpy.log(numpy.maximum(row, 1e-300)))
        return numpy.array(rows)

    def datasets(self, job):
        found = {}
        with h5py.File(f"{self.name}_{job}.h5") as file:
            def visit(path, item):
                if isinstance(item, h5py.Dataset):
                    found[path] = item[()]
            file.visititems(visit)
        return found

    def scores(self):
        """{when: [records' NLL of the new and the true target]}."""
        made = {"pre": [], "post": []}
        for file in sorted(os.listdir(f"{self.name}_cases")):
            case = json.load(open(f"{self.name}_cases/{file}"))
            for when, values in made.items():
                for key in sorted(case[when]):
                    if key.endswith("_probs"):
                        values += [[row["target_new"], row["target_true"]] for row in case[when][key]]
        return {when: numpy.array(values, numpy.float64) for when, values in made.items()}


def largest(a, b):
    a, b = numpy.asarray(a, numpy.float64), numpy.asarray(b, numpy.float64)
    if a.shape != b.shape:
        return float("inf")
    difference = numpy.abs(a - b)
    return float(numpy.where(numpy.isnan(difference), numpy.inf, difference).max(initial=0))


def one_minus_cosine(a, b):
    a, b = a.astype(numpy.float64), b.astype(numpy.float64)
    return float(1 - a @ b / numpy.sqrt((a @ a) * (b @ b)))


def deviations(jobs, base):
    """The table's columns for one run against another one."""
    ours, theirs = jobs.log_probabilities(), base.log_probabilities()
    likely = theirs > numpy.log(1e-6)
    row = {"log_probability": largest(ours[likely], theirs[likely]),
           "log_probability_rms": float(numpy.sqrt(numpy.mean((ours[likely] - theirs[likely]) ** 2))),
           "probability": largest(numpy.exp(ours), numpy.exp(theirs)),
           "first_tokens_that_differ": int((ours.argmax(1) != theirs.argmax(1)).sum())}
    a, b = jobs.datasets("trace"), base.datasets("trace")
    scores = [path for path in b if "scores" in path.rsplit("/", 1)[-1]]
    row["trace_probability"] = max(largest(a[path], b[path]) for path in scores)
    row["trace_probability_rms"] = float(numpy.sqrt(numpy.mean(
        numpy.concatenate([(a[path] - b[path]).astype(numpy.float64).ravel() ** 2 for path in scores]))))
    a, b = jobs.datasets("edit"), base.datasets("edit")
    for name in ("u", "v", "value_star"):
        paths = [path for path in b if path.endswith("/" + name)]
        row[f"{name}_one_minus_cosine"] = max(one_minus_cosine(a[path], b[path]) for path in paths)
        row[f"{name}_norm_relative"] = max(float(abs(numpy.linalg.norm(a[path].astype(numpy.float64)) /
                                                     numpy.linalg.norm(b[path].astype(numpy.float64)) - 1)) for path in paths)
    curves = [path for path in b if path.endswith("/loss_curve")]
    row["edits_with_another_number_of_steps"] = sum(a[path].shape != b[path].shape for path in curves)
    a, b = jobs.scores(), base.scores()
    for when, text in (("pre", "before"), ("post", "after")):
        row[f"nll_{text}"] = largest(a[when], b[when])
        row[f"decisions_that_differ_{text}"] = int(((a[when][:, 0] < a[when][:, 1]) != (b[when][:, 0] < b[when][:, 1])).sum())
    row["decisions"] = len(b["post"])
    return row


def is_result(name):
    return "checksum" not in name and not any(word in name.rsplit("/", 1)[-1] for word in ABOUT_THE_RUN)


def same(a, b):
    a, b = numpy.asarray(a), numpy.asarray(b)
    if a.dtype.kind in "OUS":
        return a.tolist() == b.tolist()
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def different_items(first, second):
    """Names of what differs in a bit between two runs of the same jobs."""
    names = [] if first.predicted == second.predicted else ["predict"]
    for job in ("trace", "edit", "eval"):
        with h5py.File(f"{first.name}_{job}.h5") as a, h5py.File(f"{second.name}_{job}.h5") as b:
            items = [{"": a}, {"": b}]
            for file, found in zip((a, b), items):
                file.visititems(lambda path, item, found=found: found.update({path: item}))
            if items[0].keys() != items[1].keys():
                names.append(f"{job}: the files hold different items")
                continue
            for path, item in items[0].items():
                other = items[1][path]
                if isinstance(item, h5py.Dataset) and is_result(path) and not same(item[()], other[()]):
                    names.append(f"{job}:{path}")
                names += [f"{job}:{path}@{key}" for key in item.attrs
                          if is_result(key) and not same(item.attrs[key], other.attrs.get(key))]
    return names


def examine(loci, case, arguments, work, found, save):
    """Fills `found`; save() after each precision, so that what is there stays whatever ends the next one."""
    base, rows, differing = None, [], {}
    found |= {"from": f"{arguments.device} {arguments.precisions.split(',')[0]}", "rows": rows,
              "items_that_differ_between_two_runs": differing}
    for precision in arguments.precisions.split(","):
        first = Jobs(loci, case, arguments.device, precision, f"{work}/{precision}_1").run()
        second = Jobs(loci, case, arguments.device, precision, f"{work}/{precision}_2").run()
        differing[precision] = different_items(first, second)
        base = base or first
        rows.append({"device": arguments.device, "precision": precision, **deviations(first, base)})
        print(f"{os.path.basename(case['model'])} {precision}: {len(differing[precision])} items differ between two runs; "
              f"{json.dumps(rows[-1])}", flush=True)
        save()
    cpu = Jobs(loci, case, "cpu", "fp32", f"{work}/cpu").run()
    rows.append({"device": "cpu", "precision": "fp32", **deviations(cpu, base)})
    save()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("loci")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", default="fp32,tf32,bf16")
    parser.add_argument("--golden")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    loci, report = os.path.abspath(arguments.loci), {}
    cases = {"embedded": embedded_case}
    if arguments.golden:
        cases["golden"] = lambda work: golden_case(os.path.abspath(arguments.golden), work)
    failed = False

    def save():
        with open(arguments.output + ".new", "w") as out:
            json.dump(report, out, indent=1)
            out.write("\n")
        os.replace(arguments.output + ".new", arguments.output)

    for name, make in cases.items():
        report[name] = {}
        with tempfile.TemporaryDirectory() as work:
            try:
                examine(loci, make(work), arguments, work, report[name], save)
                failed |= any(report[name]["items_that_differ_between_two_runs"].values())
            except Exception as error:  # the other model is still examined
                report[name]["error"], failed = f"{type(error).__name__}: {error}", True
                print(report[name]["error"], file=sys.stderr)
    save()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
