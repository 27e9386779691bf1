#!/usr/bin/python3
"""loci and its peers on the same machine in one run: forward pass, trace, second moments, edit, scores. Writes one JSON report.

    compare.py --loci build/cpu/app/loci --forward build/cpu/bench/forward_bench --tokenizer DIR [--text FILE]
               [--peer-python PYTHON] [--rome CHECKOUT] [--memit CHECKOUT] [--shape small] [--edits 32] [--records FILE.json]
               [--golden DIR] [--device cuda] [--precision tf32] [--cov-tokens 24000] [--trace-one-token]
               --output bench/results/NAME.json

Without --peer-python there are no peers; without --rome only PyTorch's own. Without --text second moments are those of random
words, without --records the scored records are made up. --golden takes a folder with a small trained model and the inputs of the
reference's outputs on it. Every job is one process; seconds are those of the job without loading the model for the peers, and of
the whole process, loading included, for loci: the row `load` tells what that is, and `loci_job_seconds` are those without
loading too. Peak memory is the process's largest resident set. Of the small trained model's jobs, which take loci a second or
two, the median of five runs counts. What a peer does one by one (edits, records; with --trace-one-token the tokens of a trace,
for models at which a whole one takes it hours) it does for the first few, and the time of one is multiplied.

Arithmetic is that of matrix products: `needed` by bench/arithmetic.py, `spent` as loci counted it; `of_ceiling` is spent over
the process's seconds, in relation to square products in the same run, `of_ceiling_loaded` the same over the job's seconds. A
job that fails is a row with its error, and the exit code is 1. The report is written again after each job.
"""
import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import arithmetic  # noqa: E402

# Layers of GPT-2: edited, last, and those whose second moments are collected together.
LAYERS = {"small": (5, 11, "4,5,6,7"), "medium": (8, 23, "6,7,8,9"), "large": (12, 35, "10,11,12,13"), "xl": (17, 47, "13,14,15,16,17"),
          "smoke": (1, 2, "0,1")}
FORWARD_SHAPES = {"xl": ("2000x12", "8x1024", "1x1024", "1x12"), "smoke": ("2x5", "1x16")}
# A processor needs minutes for the first two of XL.
CPU_FORWARD_SHAPES = FORWARD_SHAPES | {"xl": ("11x12", "1x1024")}
# 12 tokens with a subject of two, from token 0 and from token 4 on.
PROMPT = "{} plays the sport of basketball in the big city of"
LATER_PROMPT = "They say that now {} plays the sport of basketball in"
TOKENS = 12
SUBJECT = "Michael Jordan"
PEER_RECORDS = 2
PEER_BATCHES = (2, 6)
# Everything is in the model's folder; where nothing can be reached the hub's client would wait for an answer.
PEER_ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
SHORT_RUNS = 5
TEMPLATES = ["{}"] + [f"{text}. {{}}" for text in (
    "The first of the", "In the end he", "A new report from", "It was not the", "They said that it",
    "One of the most", "There are two other", "For the past few", "When you look at", "We have seen this",
    "The city is one of the largest in the", "He was born in the north of the country", "On the other hand it is not easy to",
    "After the war the family moved to a small", "The company said that it would not be able",
    "In this case there is no need to be", "A spokesman for the group said on Monday that", "It is the second time in a week that",
    "The last few years have been very good for", "If you want to see more of this you")]


def run(command, **options):
    """(seconds, peak bytes, standard output) of one process; RuntimeError where it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.PIPE, text=True, **options)
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"{' '.join(map(str, command))} failed with {process.returncode or status}: {error[-2000:]}")
        out.seek(0)
        return seconds, usage.ru_maxrss * 1024, out.read()


def read_records(path, count):
    """Records with as many prompts as CounterFact has: 2 paraphrases, 10 neighbours, 10 attribute prompts. EasyEdit's form has one
    of the first two each; the others are those of the records that follow."""
    records = json.load(open(path))
    if "requested_rewrite" in records[0]:
        return records[:count]
    fits = [r for r in records if r["prompt"].count(r["subject"]) == 1]
    return [{
        "case_id": r["case_id"],
        "requested_rewrite": {"prompt": r["prompt"].replace(r["subject"], "{}"), "subject": r["subject"], "relation_id": "none",
                              "target_new": {"str": r["target_new"]}, "target_true": {"str": r["ground_truth"]}},
        "paraphrase_prompts": [n["rephrase_prompt"] for n in fits[i:i + 2]],
        "neighborhood_prompts": [n["locality_prompt"] for n in fits[i:i + 10]],
        "attribute_prompts": [n["locality_prompt"] for n in fits[i + 10:i + 20]],
        "generation_prompts": []} for i, r in enumerate(fits[:count])]


class Workplace:
    """A folder of inputs and outputs, and loci on one device. `arguments` has loci, device and precision."""

    def __init__(self, arguments, work):
        self.a, self.work = arguments, work

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, value):
        json.dump(value, open(self.path(name), "w"))
        return self.path(name)

    def loci(self, *arguments):
        machine = [] if arguments[0] == "export" else ["--device", self.a.device, "--precision", self.a.precision]
        return run([self.a.loci, *arguments, *machine, "--json"])

    def median_loci(self, *arguments):
        """The run of median seconds: jobs of a second or two waver with whatever else the machine does."""
        return sorted(self.loci(*arguments, "--overwrite") for _ in range(SHORT_RUNS))[SHORT_RUNS // 2]


class Comparison(Workplace):
    def __init__(self, arguments, work):
        super().__init__(arguments, work)
        self.rows, self.done, self.failed = [], [], False
        self.records = read_records(arguments.records, arguments.record_count) if arguments.records else None
        self.layer, self.last_layer, self.some_layers = LAYERS[arguments.shape]
        self.model = arguments.model or os.path.join(work, "model")
        if not os.path.exists(os.path.join(self.model, "model.safetensors")):
            vocabulary = ["--vocabulary", 3000 if arguments.shape == "smoke" else 50257]
            run([sys.executable, f"{HERE}/make_model.py", "--shape", arguments.shape, "--tokenizer", arguments.tokenizer, *vocabulary,
                 self.model])

    def peer(self, *command):
        """What one of the peers printed; {"error": ...} where it failed: another version of its libraries, say."""
        try:
            return json.loads(run([self.a.peer_python, *command, "--device", self.a.device], env=PEER_ENVIRONMENT)[2].strip().splitlines()[-1])
        except RuntimeError as error:  # ours is still measured
            return {"error": str(error)[-1000:]}

    def reference(self, job, *arguments, model=None, checkout=None):
        checkout = checkout if job == "memit" else self.a.rome
        if not (checkout and self.a.peer_python):
            return {}
        return self.peer(f"{HERE}/peers/reference.py", checkout, model or self.model, job, *arguments)

    def dimensions(self):
        """(layers, width, vocabulary) of the model."""
        config = json.load(open(os.path.join(self.model, "config.json")))
        return config["n_layer"], config["n_embd"], config["vocab_size"]

    def add(self, job, ours, our_peak, peer, peer_name, peer_peak=None, needed=None, summary=None, **more):
        """`summary` is what loci printed of the job."""
        printed = json.loads(summary) if summary else {}
        spent, job_seconds = printed.get("matrix_flop"), printed.get("seconds")
        row = {"job": job, "loci_seconds": ours, "loci_job_seconds": job_seconds, "loci_peak_bytes": our_peak, "needed_flop": needed,
               "spent_flop": spent, **more}
        if spent and self.ceiling:
            row |= {"of_ceiling": spent / ours / self.ceiling, "of_ceiling_loaded": spent / job_seconds / self.ceiling}
        if peer:
            row |= {"peer": peer_name, "peer_seconds": peer, "peer_peak_bytes": peer_peak, "ratio": peer / ours}
        row = {key: value for key, value in row.items() if value is not None}
        self.rows.append(row)
        print(f"{job:42} loci {ours:9.3f} s" + (f"   {peer_name} {peer:9.3f} s   ratio {peer / ours:5.2f}" if peer else ""),
              flush=True)

    def attempt(self, job):
        first = len(self.rows)
        try:
            getattr(self, job)()
            self.done.append(job)
        except Exception as error:  # the other jobs still run
            self.failed = True
            self.rows.append({"job": job, "error": f"{type(error).__name__}: {error}"})
            print(f"{job}: {error}", file=sys.stderr, flush=True)
        for row in self.rows[first:]:
            row["of"] = job

    def load(self):
        """Loading, hashing and one prompt: part of each of the jobs below."""
        seconds, peak, _ = self.loci("predict", self.model, "--prompt", PROMPT.format(SUBJECT), "--top", 1)
        self.add("start, load the model, one prompt", seconds, peak, None, None)

    def forward_peers(self, shapes):
        """{label: {shape: seconds}} of PyTorch in the same precision."""
        labels = {"bf16": ["bf16", "bf16-autocast"]}.get(self.a.precision, [self.a.precision])
        made = {}
        for label in labels if self.a.peer_python else []:
            _, peak, out = run([self.a.peer_python, f"{HERE}/peers/forward.py", self.model, *shapes, "--device", self.a.device,
                                "--precision", label], env=PEER_ENVIRONMENT)
            out = json.loads(out)
            self.versions |= {k: out[k] for k in ("torch", "transformers")}
            made["PyTorch " + label] = {r["shape"]: r["seconds"] for r in out["results"]}, out.get("peak_device_bytes", peak)
        return made

    def forward(self):
        of_shape = CPU_FORWARD_SHAPES if self.a.device == "cpu" else FORWARD_SHAPES
        shapes = sum((["--shape", s] for s in of_shape.get(self.a.shape, ("11x12", "8x128", "1x1024"))), [])
        extent = {"smoke": 64}.get(self.a.shape, 2048 if self.a.device == "cpu" else 8192)
        _, peak, out = run([self.a.forward, self.model, *shapes, "--device", self.a.device, "--precision", self.a.precision,
                            "--matrix-extent", extent])
        ours, failure = json.loads(out), None
        self.ceiling = ours["matrix_flops"]
        peak = ours["peak_device_bytes"] if self.a.device != "cpu" else peak
        try:
            peers = self.forward_peers(shapes)
        except RuntimeError as error:
            peers, failure = {}, str(error)[-1000:]
        for r in ours["results"]:
            for name, (seconds, peer_peak) in (peers or {None: ({}, None)}).items():
                self.add(f"forward {r['shape']}, all positions unembedded", r["seconds"], peak, seconds.get(r["shape"]), name,
                         peer_peak, last_position_only=r["seconds_last_position_only"], peer_error=failure)

    def trace(self):
        self.trace_from(PROMPT, 0)

    def later_trace(self):
        self.trace_from(LATER_PROMPT, 4)

    def trace_from(self, template, begin):
        prompt = template.format(SUBJECT)
        top = json.loads(self.loci("predict", self.model, "--prompt", prompt, "--top", 1)[2])["results"][0]["tokens"][0]
        facts = self.write("facts.json", [{"known_id": 1, "subject": SUBJECT, "attribute": top["text"].strip(), "template": template,
                                           "prediction": top["text"], "prompt": prompt, "relation_id": "none"}])
        seconds, peak, out = self.loci("trace", self.model, "--facts", facts, "--output", self.path("trace.h5"), "--overwrite",
                                       "--noise", 0.1, "--kinds", "state,mlp,attn")
        layers, width, vocabulary = self.dimensions()
        counts = {"needed": arithmetic.trace(layers, width, vocabulary, TOKENS, begin), "summary": out}
        job = f"full trace of one fact, subject from token {begin}"
        if self.a.trace_one_token:  # a corrupted run, and one for each layer and traced token
            peer, times = ["--token-range", "subject_last"], (1 + TOKENS * layers) / (1 + layers)
            job += " (peer: one token, multiplied)"
        else:
            peer, times = [], 1
        self.add_reference(job, seconds, peak, self.reference("trace", "--facts", facts, *peer), times, **counts)
        if self.a.peer_python and (self.a.device != "cpu" or not self.a.trace_one_token):
            precision = ["--precision", "tf32"] if self.a.precision == "tf32" else []
            batched = self.peer(f"{HERE}/peers/batched_trace.py", self.model, "--facts", facts, *precision)
            self.add(job, seconds, peak, batched.get("seconds"), "PyTorch, batched", batched.get("peak_bytes"),
                     peer_error=batched.get("error"), **counts)

    def add_reference(self, job, seconds, peak, peer, times=1, **more):
        scaled = peer["seconds"] * times if "seconds" in peer else None
        self.add(job, seconds, peak, scaled, "reference", peer.get("peak_bytes"), peer_error=peer.get("error"), **more)

    def documents(self):
        """A file of about --cov-tokens tokens."""
        documents, budget = self.path("documents.jsonl"), self.a.cov_tokens
        with open(documents, "w") as out:
            for line in self.texts():
                if len(line.split()) < 40:
                    continue
                out.write(json.dumps({"text": line.strip()}) + "\n")
                budget -= len(line.split()) * 1.25
                if budget < 0:
                    break
        return documents

    def cov(self):
        documents = self.documents()
        for number, layers in enumerate((str(self.layer), self.some_layers)):
            moments = self.path(f"cov{number}.h5")
            seconds, peak, out = self.loci("cov", self.model, "--text", documents, "--layers", layers, "--output", moments, "--overwrite")
            peer, ours = self.reference("cov", "--documents", documents, "--layers", layers), json.loads(out)
            needed = arithmetic.second_moments(self.dimensions()[1], ours["tokens"], [int(n) for n in layers.split(",")])
            self.add_reference(f"second moments, layers {layers}", seconds, peak, peer, tokens=ours["tokens"],
                               peer_tokens=peer.get("tokens"), needed=needed, summary=out)

    def moment(self):
        """The edited layer's second moment, for loci and the reference."""
        moments = self.path("cov0.h5")
        if not os.path.exists(moments):
            self.loci("cov", self.model, "--text", self.documents(), "--layers", self.layer, "--output", moments)
        npz = self.path(f"npz/transformer.h.{self.layer}.mlp.c_proj_float32_mom2.npz")
        if not os.path.exists(npz):
            self.loci("export", moments, "--format", "npz", "--output", self.path("npz"))
        return npz

    def texts(self):
        """Lines of --text, or random words that the tokenizer knows."""
        if self.a.text:
            return open(self.a.text)
        words = [w[1:] for w in json.load(open(os.path.join(self.a.tokenizer, "vocab.json"))) if w[:1] == "\u0120" and w[1:].isalpha()]
        draw = random.Random(1)
        return (" ".join(draw.choices(words, k=200)) for _ in range(1000))

    def edit_inputs(self):
        hparams = self.write("hparams.json", {
            "layers": [self.layer], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 0.5, "v_loss_layer": self.last_layer,
            "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": True,
            "context_template_length_params": [[5, 10], [10, 10]], "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
            "layer_module_tmp": "transformer.h.{}", "mlp_module_tmp": "transformer.h.{}.mlp",
            "attn_module_tmp": "transformer.h.{}.attn", "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
            "mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32"})
        templates = self.write("templates.json", TEMPLATES)
        moment = self.moment()
        names = ["Michael Jordan", "Larry Bird", "Danielle Darrieux", "Steve Jobs", "Edwin of Northumbria", "Marie Curie"]
        records = [{"case_id": i, "requested_rewrite": {
            "prompt": PROMPT, "subject": names[i % len(names)], "relation_id": "none", "target_new": {"str": ["soccer", "Paris"][i % 2]},
            "target_true": {"str": "basketball"}}, "paraphrase_prompts": [], "neighborhood_prompts": [], "attribute_prompts": [],
            "generation_prompts": []} for i in range(max(1, self.a.edits))]
        # A model with random weights can leave a neuron near zero.
        flags = ["--method", "rome", "--cov", moment, "--hparams", hparams, "--context-templates", templates, "--ridge", 1e-6]
        peer_flags = ["--hparams", hparams, "--templates", templates, "--moment", moment]
        return self.write("one.json", records[:1]), self.write("many.json", records), flags, peer_flags

    def edit(self):
        one, many, flags, peer_flags = self.edit_inputs()
        seconds, peak, out = self.loci("edit", self.model, *flags, "--requests", one, "--output", self.path("edit.h5"))
        peer = self.reference("edit", "--requests", one, *peer_flags)
        layers, width, vocabulary = self.dimensions()
        # The fact token is the subject's second one; the essence prompt needs that row alone.
        prompts = [(TOKENS - 1, 1)] * len(TEMPLATES) + [(1, 1)]
        needed = arithmetic.edit(layers, width, vocabulary, self.layer, prompts)
        self.add_reference("one ROME edit", seconds, peak, peer, needed=needed, summary=out)
        if self.a.edits > 1:
            seconds, peak, out = self.loci("edit", self.model, *flags, "--requests", many, "--output", self.path("edits.h5"))
            self.add_reference(f"{self.a.edits} ROME edits in one call (peer: {self.a.edits} x one)", seconds, peak, peer, self.a.edits,
                               summary=out)

    def memit(self):
        """A batch of requests. The reference's time is a line in their number, drawn through two small batches."""
        layers = [int(layer) for layer in self.some_layers.split(",")]
        moments, folder = self.path("cov1.h5"), self.path("npz1")
        if not os.path.exists(moments):
            self.loci("cov", self.model, "--text", self.documents(), "--layers", self.some_layers, "--output", moments)
        self.loci("export", moments, "--format", "npz", "--output", folder)
        files = ",".join(f"{folder}/transformer.h.{layer}.mlp.c_proj_float32_mom2.npz" for layer in layers)
        _, _, _, peer_flags = self.edit_inputs()
        hparams = json.load(open(peer_flags[1])) | {
            "layers": layers, "layer_selection": "all", "clamp_norm_factor": 0.75, "mom2_update_weight": 15000}
        del hparams["context_template_length_params"]
        hparams = self.write("memit.json", hparams)
        templates = self.write("memit_templates.json", TEMPLATES[:6])
        names = ["Jordan", "Bird", "Darrieux", "Jobs", "Northumbria", "Curie", "Turing", "Noether", "Euler", "Ampere"]
        records = [{"case_id": i, "requested_rewrite": {
            "prompt": PROMPT, "subject": f"{chr(65 + i // len(names))}. {names[i % len(names)]}", "relation_id": "none",
            "target_new": {"str": ["soccer", "Paris"][i % 2]}, "target_true": {"str": "basketball"}}} for i in range(self.a.batch)]
        flags = ["--method", "memit", "--hparams", hparams, "--context-templates", templates]
        seconds, peak, out = self.loci("edit", self.model, *flags, "--cov", files, "--requests", self.write("batch.json", records),
                                       "--output", self.path("memit.h5"))
        small, large = PEER_BATCHES
        peers = [self.reference("memit", "--requests", self.write(f"batch{n}.json", records[:n]), "--hparams", hparams, "--templates",
                                templates, "--moment", files, checkout=self.a.memit) for n in PEER_BATCHES]
        slope = (peers[1].get("seconds", 0) - peers[0].get("seconds", 0)) / (large - small)
        whole = peers[1] | ({"seconds": peers[1]["seconds"] + slope * (len(records) - large)} if slope > 0 else {})
        self.add_reference(f"MEMIT, {len(records)} requests, {len(layers)} layers (peer: a line through {small} and {large})", seconds,
                           peak, whole, peer_batches=[peer.get("seconds") for peer in peers], summary=out)

    def eval(self):
        _, many, flags, peer_flags = self.edit_inputs()
        records = self.records or json.load(open(many))
        count = len(records)
        seconds, peak, out = self.loci("eval", self.model, "--dataset", "counterfact", *flags, "--records",
                                       self.write("records.json", records), "--output", self.path("eval.h5"))
        few = records[:PEER_RECORDS]
        peer = self.reference("eval", "--requests", self.write("few.json", few), *peer_flags)
        self.add_reference(f"{count} records edited and scored (peer: {count} / {len(few)} x {len(few)})", seconds, peak, peer,
                           count / len(few), summary=out)

    def golden(self):
        """The small trained model, where not arithmetic but overhead is everything."""
        if not self.a.golden:
            return
        folder, peers = os.path.abspath(self.a.golden), 2
        model = f"{folder}/model"
        facts = json.load(open(f"{folder}/trace/facts.json"))
        path = self.write("golden_facts.json", facts)
        seconds, peak, out = self.median_loci("trace", model, "--facts", path, "--output", self.path("golden_trace.h5"),
                                              "--noise", 0.1, "--compat", "rome")
        peer = self.reference("trace", "--facts", self.write("golden_few.json", facts[:peers]), model=model)
        self.add_reference(f"golden model: {len(facts)} facts traced (peer: from {peers})", seconds, peak, peer, len(facts) / peers,
                           summary=out)
        hparams, templates = f"{folder}/edit/hparams.json", f"{folder}/edit/context_templates.json"
        layer = json.load(open(hparams))["layers"][0]
        moment = f"{folder}/cov/transformer.h.{layer}.mlp.c_proj_float32_mom2.npz"
        flags = ["--method", "rome", "--cov", moment, "--hparams", hparams, "--context-templates", templates, "--compat", "rome"]
        peer_flags = ["--hparams", hparams, "--templates", templates, "--moment", moment]
        path = f"{folder}/eval/counterfact_records.json"
        records = json.load(open(path))
        few = self.write("golden_few.json", records[:peers])
        for job, name, input_flag in (("edit", "edits", "--requests"), ("eval", "records edited and scored", "--records")):
            more = ["--dataset", "counterfact"] if job == "eval" else []
            seconds, peak, out = self.median_loci(job, model, *more, *flags, input_flag, path, "--output",
                                                  self.path(f"golden_{job}.h5"))
            peer = self.reference(job, "--requests", few, *peer_flags, model=model)
            self.add_reference(f"golden model: {len(records)} {name} (peer: from {peers})", seconds, peak, peer, len(records) / peers,
                               summary=out)

    versions = {}
    ceiling = None


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    release = dict(line.strip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
    system = release.get("PRETTY_NAME", platform.system()).strip('"')
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "system": system}


def write_report(comparison, commit):
    a = comparison.a
    report = {"machine": machine(), "commit": commit, "shape": a.shape, "device": a.device, "precision": a.precision,
              "versions": comparison.versions, "matrix_flops": comparison.ceiling, "date": time.strftime("%Y-%m-%d"),
              "rows": comparison.rows, "done": comparison.done}
    os.makedirs(os.path.dirname(os.path.abspath(a.output)), exist_ok=True)
    with open(a.output + ".new", "w") as out:
        json.dump(report, out, indent=1)
        out.write("\n")
    os.replace(a.output + ".new", a.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loci", required=True)
    parser.add_argument("--forward", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text")
    parser.add_argument("--model", help="folder to make the model in, or that holds it; default: a temporary one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--peer-python")
    parser.add_argument("--rome")
    parser.add_argument("--memit", help="a checkout of kmeng01/memit")
    parser.add_argument("--batch", type=int, default=100, help="requests of the batch that MEMIT writes")
    parser.add_argument("--shape", default="small")
    parser.add_argument("--edits", type=int, default=32)
    parser.add_argument("--records", help="CounterFact records, in the reference's form or EasyEdit's")
    parser.add_argument("--record-count", type=int, default=100)
    parser.add_argument("--cov-tokens", type=int, default=24000, help="tokens whose second moments are collected, about")
    parser.add_argument("--trace-one-token", action="store_true", help="the reference traces one token, its time is multiplied")
    parser.add_argument("--golden")
    parser.add_argument("--jobs", default="load,forward,trace,later_trace,cov,edit,memit,eval,golden")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    for name in ("loci", "forward", "tokenizer", "text", "rome", "memit", "model", "records"):
        if getattr(arguments, name):
            setattr(arguments, name, os.path.abspath(getattr(arguments, name)))
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as work:
        comparison = Comparison(arguments, work)
        for job in arguments.jobs.split(","):
            comparison.attempt(job)
            write_report(comparison, commit)  # what is measured stays, whatever ends the next job
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
