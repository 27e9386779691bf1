#!/usr/bin/python3
"""loci and its peers on the same CPU in one run: forward pass, trace, second moments, edit. Writes one JSON report.

    compare.py --loci build/cpu/app/loci --forward build/cpu/bench/forward_bench --tokenizer DIR --text FILE
               [--peer-python PYTHON] [--rome CHECKOUT] [--shape small] [--edits 32] --output bench/results/NAME.json

Without --peer-python there are no peers; without --rome only PyTorch's forward pass. Every job is one process; seconds are
those of the job without loading the model for the peers, and of the whole process, loading included, for loci. Peak memory is
the process's largest resident set.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT = "{} plays the sport of basketball in the big city of"  # 12 tokens with a subject of two
SUBJECT = "Michael Jordan"
TEMPLATES = ["{}"] + [f"{text}. {{}}" for text in (
    "The first of the", "In the end he", "A new report from", "It was not the", "They said that it",
    "One of the most", "There are two other", "For the past few", "When you look at", "We have seen this",
    "The city is one of the largest in the", "He was born in the north of the country", "On the other hand it is not easy to",
    "After the war the family moved to a small", "The company said that it would not be able",
    "In this case there is no need to be", "A spokesman for the group said on Monday that", "It is the second time in a week that",
    "The last few years have been very good for", "If you want to see more of this you")]


def run(command, **options):
    """(seconds, peak bytes, standard output) of one process; stops the benchmark where it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.PIPE, text=True, **options)
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            sys.exit(f"compare.py: {' '.join(map(str, command))} failed:\n{error[-3000:]}")
        out.seek(0)
        return seconds, usage.ru_maxrss * 1024, out.read()


class Comparison:
    def __init__(self, arguments, work):
        self.a, self.work, self.rows = arguments, work, []
        self.model = os.path.join(work, "model")
        run([sys.executable, f"{HERE}/make_model.py", "--shape", arguments.shape, "--tokenizer", arguments.tokenizer, self.model])

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, value):
        json.dump(value, open(self.path(name), "w"))
        return self.path(name)

    def loci(self, *arguments):
        return run([self.a.loci, *arguments, "--json"])

    def reference(self, *arguments):
        if not (self.a.rome and self.a.peer_python):
            return None
        out = run([self.a.peer_python, f"{HERE}/peers/reference.py", self.a.rome, self.model, *arguments])[2]
        return json.loads(out.strip().splitlines()[-1])

    def add(self, job, ours, our_peak, peer, peer_name, peer_peak=None, **more):
        row = {"job": job, "loci_seconds": ours, "loci_peak_bytes": our_peak, **more}
        if peer:
            row |= {"peer": peer_name, "peer_seconds": peer, "peer_peak_bytes": peer_peak, "ratio": peer / ours}
        self.rows.append(row)
        print(f"{job:42} loci {ours:9.3f} s" + (f"   {peer_name} {peer:9.3f} s   ratio {peer / ours:5.2f}" if peer else ""),
              flush=True)

    def forward(self):
        shapes = sum((["--shape", s] for s in ("11x12", "8x128", "1x1024")), [])
        _, peak, out = run([self.a.forward, self.model, *shapes])
        ours, peers, peer_peak = json.loads(out), {}, None
        if self.a.peer_python:
            _, peer_peak, out = run([self.a.peer_python, f"{HERE}/peers/forward.py", self.model, *shapes])
            peers = json.loads(out)
            self.versions |= {k: peers[k] for k in ("torch", "transformers")}
            peers = {r["shape"]: r["seconds"] for r in peers["results"]}
        for r in ours["results"]:
            self.add(f"forward {r['shape']}, all positions unembedded", r["seconds"], peak, peers.get(r["shape"]), "PyTorch",
                     peer_peak, last_position_only=r["seconds_last_position_only"])

    def trace(self):
        prompt = PROMPT.format(SUBJECT)
        top = json.loads(self.loci("predict", self.model, "--prompt", prompt, "--top", 1)[2])["results"][0]["tokens"][0]
        facts = self.write("facts.json", [{"known_id": 1, "subject": SUBJECT, "attribute": top["text"].strip(), "template": PROMPT,
                                           "prediction": top["text"], "prompt": prompt, "relation_id": "none"}])
        seconds, peak, _ = self.loci("trace", self.model, "--facts", facts, "--output", self.path("trace.h5"), "--noise", 0.1,
                                     "--kinds", "state,mlp,attn")
        peer = self.reference("trace", "--facts", facts) or {}
        self.add("full trace of one fact (state, mlp, attn)", seconds, peak, peer.get("seconds"), "reference", peer.get("peak_bytes"))

    def cov(self):
        documents, budget = self.path("documents.jsonl"), 9000
        with open(documents, "w") as out:
            for line in open(self.a.text):
                if len(line.split()) < 40:
                    continue
                out.write(json.dumps({"text": line.strip()}) + "\n")
                budget -= len(line.split()) * 1.25
                if budget < 0:
                    break
        for layers in ("5", "4,5,6,7"):
            seconds, peak, _ = self.loci("cov", self.model, "--text", documents, "--layers", layers, "--output",
                                         self.path(f"cov{len(layers)}.h5"))
            peer = self.reference("cov", "--documents", documents, "--layers", layers) or {}
            self.add(f"second moments, layers {layers}", seconds, peak, peer.get("seconds"), "reference", peer.get("peak_bytes"),
                     tokens=peer.get("tokens"))
        self.loci("export", self.path("cov1.h5"), "--format", "npz", "--output", self.path("npz"))

    def edit(self):
        hparams = self.write("hparams.json", {
            "layers": [5], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 0.5, "v_loss_layer": 11,
            "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": True,
            "context_template_length_params": [[5, 10], [10, 10]], "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
            "layer_module_tmp": "transformer.h.{}", "mlp_module_tmp": "transformer.h.{}.mlp",
            "attn_module_tmp": "transformer.h.{}.attn", "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
            "mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32"})
        templates = self.write("templates.json", TEMPLATES)
        moment = self.path("npz/transformer.h.5.mlp.c_proj_float32_mom2.npz")
        names = ["Michael Jordan", "Larry Bird", "Danielle Darrieux", "Steve Jobs", "Edwin of Northumbria", "Marie Curie"]
        records = [{"case_id": i, "requested_rewrite": {
            "prompt": PROMPT, "subject": names[i % len(names)], "relation_id": "none", "target_new": {"str": ["soccer", "Paris"][i % 2]},
            "target_true": {"str": "basketball"}}, "paraphrase_prompts": [], "neighborhood_prompts": [], "attribute_prompts": [],
            "generation_prompts": []} for i in range(max(1, self.a.edits))]
        one, many = self.write("one.json", records[:1]), self.write("many.json", records)
        flags = ["--method", "rome", "--cov", moment, "--hparams", hparams, "--context-templates", templates]
        seconds, peak, _ = self.loci("edit", self.model, *flags, "--requests", one, "--output", self.path("edit.h5"))
        peer = self.reference("edit", "--requests", one, "--hparams", hparams, "--templates", templates, "--moment", moment) or {}
        self.add("one ROME edit", seconds, peak, peer.get("seconds"), "reference", peer.get("peak_bytes"))
        if self.a.edits > 1:
            seconds, peak, _ = self.loci("edit", self.model, *flags, "--requests", many, "--output", self.path("edits.h5"))
            scaled = peer["seconds"] * self.a.edits if peer else None
            self.add(f"{self.a.edits} ROME edits in one call (peer: {self.a.edits} x one)", seconds, peak, scaled, "reference",
                     peer.get("peak_bytes"))

    versions = {}


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    release = dict(line.strip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
    system = release.get("PRETTY_NAME", platform.system()).strip('"')
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "system": system}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loci", required=True)
    parser.add_argument("--forward", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--peer-python")
    parser.add_argument("--rome")
    parser.add_argument("--shape", default="small")
    parser.add_argument("--edits", type=int, default=32)
    parser.add_argument("--jobs", default="forward,trace,cov,edit")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    for name in ("loci", "forward", "tokenizer", "text", "rome"):
        if getattr(arguments, name):
            setattr(arguments, name, os.path.abspath(getattr(arguments, name)))
    with tempfile.TemporaryDirectory() as work:
        comparison = Comparison(arguments, work)
        for job in arguments.jobs.split(","):
            getattr(comparison, job)()
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    report = {"machine": machine(), "commit": commit, "shape": arguments.shape, "versions": comparison.versions,
              "date": time.strftime("%Y-%m-%d"), "rows": comparison.rows}
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    with open(arguments.output, "w") as out:
        json.dump(report, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
