#!/usr/bin/python3
"""How the cost of loci's jobs grows with layers, width, tokens, requests and records. Writes one JSON report.

    growth.py --loci build/cpu/app/loci --tokenizer DIR [--device cuda] [--precision tf32] [--base 6x256] --output FILE.json

One thing is changed at a time; the others are those of the base: a GPT-2 of `--base` layers x width with random weights,
prompts of 12 tokens, 8 requests, 32 records. `seconds` are those of a process less those of one that only loads the model and
answers one prompt; `spent_flop` is what loci counted. An exponent is the slope between the two largest sizes, on logarithmic
scales: 1 is proportional.
"""
import argparse
import json
import math
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from compare import LATER_PROMPT, TEMPLATES, Workplace, run  # noqa: E402

SUBJECTS = ["Michael Jordan", "Larry Bird", "Steve Jobs", "Marie Curie"]
FILLER = " and then the old man from the north of the country said that it was not the first time in the week that"
SERIES = {"layers": ("trace", [3, 6, 12, 24]), "width": ("trace", [128, 256, 512, 1024]), "tokens": ("trace", [12, 24, 48, 96]),
          "requests": ("edit", [2, 8, 32, 128]), "records": ("eval", [8, 32, 128, 512])}


def prompt_of(tokens):
    """A template of about so many tokens: common words are one token each."""
    words = (LATER_PROMPT + FILLER * 8).split()
    return " ".join(words[:tokens - 1])  # the subject has two


class Growth(Workplace):
    def __init__(self, arguments, work):
        super().__init__(arguments, work)
        self.models = {}
        self.layers, self.width = map(int, arguments.base.split("x"))

    def model(self, layers, width):
        """(folder, seconds to load it)."""
        if (layers, width) not in self.models:
            folder = self.path(f"model_{layers}_{width}")
            run([sys.executable, f"{HERE}/make_model.py", "--tokenizer", self.a.tokenizer, "--layers", layers, "--width", width,
                 "--vocabulary", 50257, folder])
            self.models[layers, width] = folder, min(self.loci("predict", folder, "--prompt", "a", "--top", 1)[0] for _ in range(3))
        return self.models[layers, width]

    def trace(self, folder, tokens):
        template = prompt_of(tokens)
        prompt = template.format(SUBJECTS[0])
        top = json.loads(self.loci("predict", folder, "--prompt", prompt, "--top", 1)[2])["results"][0]["tokens"][0]["text"]
        facts = self.write("facts.json", [{"known_id": 1, "subject": SUBJECTS[0], "attribute": top.strip(), "template": template,
                                           "prediction": top, "prompt": prompt, "relation_id": "none"}])
        return self.loci("trace", folder, "--facts", facts, "--output", self.path("out.h5"), "--overwrite", "--noise", 0.1)

    def edit_flags(self, folder, layers):
        hparams = self.write("hparams.json", {"layers": [layers // 2], "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 0.5,
                                              "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625,
                                              "mom2_adjustment": False})
        return ["--method", "rome", "--hparams", hparams, "--context-templates", self.write("templates.json", TEMPLATES),
                "--output", self.path("out.h5"), "--overwrite"]

    def records(self, count):
        prompts = [f"{{}} {rest}" for rest in ("plays the sport of", "was born in the city of", "is known to work for")]
        return [{"case_id": i, "requested_rewrite": {
            "prompt": prompts[i % 3], "subject": SUBJECTS[i % 4], "relation_id": "none",
            "target_new": {"str": ["soccer", "Paris"][i % 2]}, "target_true": {"str": "basketball"}},
            "paraphrase_prompts": [prompts[(i + 1) % 3].format(SUBJECTS[i % 4])] * 2,
            "neighborhood_prompts": [prompts[i % 3].format(SUBJECTS[(i + 1) % 4])] * 10,
            "attribute_prompts": [prompts[i % 3].format(SUBJECTS[(i + 2) % 4])] * 10, "generation_prompts": []} for i in range(count)]

    def measure(self, series, size):
        layers, width = (size if series == "layers" else self.layers), (size if series == "width" else self.width)
        folder, loading = self.model(layers, width)
        job = SERIES[series][0]
        if job == "trace":
            seconds, peak, out = self.trace(folder, size if series == "tokens" else 12)
        elif job == "edit":
            seconds, peak, out = self.loci("edit", folder, *self.edit_flags(folder, layers), "--requests",
                                           self.write("requests.json", self.records(size)))
        else:
            seconds, peak, out = self.loci("eval", folder, "--dataset", "counterfact", *self.edit_flags(folder, layers), "--records",
                                           self.write("records.json", self.records(size)))
        return {"series": series, "size": size, "job": job, "seconds": seconds - loading, "peak_bytes": peak,
                "spent_flop": json.loads(out)["matrix_flop"]}


def exponents(rows):
    """{series: {quantity: slope}} between the two largest sizes."""
    made = {}
    for series in SERIES:
        a, b = [row for row in rows if row["series"] == series][-2:]
        ratio = math.log(b["size"] / a["size"])
        made[series] = {key: math.log(b[key] / a[key]) / ratio for key in ("seconds", "spent_flop", "peak_bytes")}
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loci", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--base", default="6x256")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    arguments.loci, arguments.tokenizer = os.path.abspath(arguments.loci), os.path.abspath(arguments.tokenizer)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        growth = Growth(arguments, work)
        for series, (_, sizes) in SERIES.items():
            for size in sizes:
                rows.append(growth.measure(series, size))
                row = rows[-1]
                print(f"{series:9} {size:5}  {row['job']:6} {row['seconds']:8.2f} s {row['spent_flop'] / 1e9:10.1f} GFLOP "
                      f"{row['spent_flop'] / row['seconds'] / 1e9:7.0f} GFLOP/s {row['peak_bytes'] / 2 ** 20:8.0f} MiB", flush=True)
    with open(arguments.output, "w") as out:
        json.dump({"base": arguments.base, "device": arguments.device, "precision": arguments.precision, "rows": rows,
                   "exponents": exponents(rows)}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
