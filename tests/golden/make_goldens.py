#!/usr/bin/env python3
"""Runs the published reference (a checkout of kmeng01/rome) on the embedded model and writes tests/golden/embedded/.

    make_goldens.py ROME        (needs torch and transformers; see scripts/reference/rome_reference.py)

Rerun it whenever data/model changes; check_goldens.py compares loci with the files.
"""
import json
import os
import re
import sys

import numpy
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
OUT = os.path.join(HERE, "embedded")
sys.path[:0] = [HERE, os.path.join(ROOT, "scripts/reference")]
from golden_inputs import NOISE, editing_moment, probe_vectors  # noqa: E402
from rome_reference import Reference, quiet  # noqa: E402

TEMPLATES = ["{}", "It is known that. {}", "In the news today. {}", "They said so. {}"]

HPARAMS = {"fact_token": "subject_last", "v_num_grad_steps": 12, "v_lr": 0.1, "v_weight_decay": 0.1, "clamp_norm_factor": 6,
           "kl_factor": 0.0625, "mom2_adjustment": True, "context_template_length_params": [[5, 2]],
           "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj", "layer_module_tmp": "transformer.h.{}",
           "mlp_module_tmp": "transformer.h.{}.mlp", "attn_module_tmp": "transformer.h.{}.attn",
           "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte", "mom2_dataset": "wikipedia",
           "mom2_n_samples": 1000, "mom2_dtype": "float32"}


def write(name, value):
    with open(os.path.join(OUT, name), "w") as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def answered(reference, fact):
    with torch.no_grad():
        logits = reference.model(**reference.tokenizer(fact["prompt"], return_tensors="pt")).logits[0, -1]
    return reference.tokenizer.decode(int(logits.argmax())).strip() == fact["attribute"]


def choose_facts(reference, facts, count):
    """Facts that the model answers, of different subject lengths and subject positions."""
    chosen = {}
    for fact in facts:
        key = (len(fact["subject"].split()), fact["prompt"].index(fact["subject"]) == 0)
        if key not in chosen and answered(reference, fact):
            chosen[key] = fact
    return list(chosen.values())[:count]


def traces(reference, facts, goldens):
    for fact in facts:
        for kind in (None, "mlp", "attn"):
            result = reference.trace(fact["prompt"], fact["subject"], expect=fact["attribute"], kind=kind, noise=NOISE,
                                     samples=4, window=3)
            assert result["correct_prediction"], fact
            name = f"trace_{fact['known_id']}_{kind or 'state'}"
            goldens[name] = result["scores"].numpy()
            goldens[name + "_low_high"] = numpy.array([result["low_score"], float(result["high_score"])])


def edits(reference, records, hparams, goldens):
    layer, width = hparams["layers"][0], reference.model.config.n_inner or 4 * reference.model.config.n_embd
    reference.use_second_moment(layer, torch.from_numpy(editing_moment(width)))
    reference.fix_context_templates(TEMPLATES)
    for record in records:
        name = f"edit_{record['case_id']}"
        before = reference.score_counterfact(record)
        u, v, log = reference.edit(record["requested_rewrite"], hparams)
        weight = reference.nethook.get_parameter(reference.model, f"transformer.h.{layer}.mlp.c_proj.weight")
        original = weight.detach().clone()
        with torch.no_grad():
            weight += torch.outer(u, v)
            after = reference.score_counterfact(record)
            weight[...] = original
        goldens[name + "_u"], goldens[name + "_v"] = u.numpy(), v.numpy()
        goldens[name + "_loss"] = numpy.array([[float(x) for x in row] for row in re.findall(
            r"loss ([-\d.e]+) = ([-\d.e]+) \+ ([-\d.e]+) \+ ([-\d.e]+)", log)])
        for when, scores in (("before", before), ("after", after)):
            for key in ("rewrite", "paraphrase", "neighborhood"):
                goldens[f"{name}_{when}_{key}"] = numpy.array(
                    [[row["target_new"], row["target_true"]] for row in scores[f"{key}_prompts_probs"]]).reshape(-1, 2)


def main():
    os.makedirs(OUT, exist_ok=True)
    world = os.path.join(ROOT, "data/world")
    records = json.load(open(f"{world}/records_tune.json"))[:3]
    with quiet():
        reference = Reference(os.path.abspath(sys.argv[1]), os.path.join(ROOT, "data/model"), attention="eager")
    facts = choose_facts(reference, json.load(open(f"{world}/known_facts.json")), 4)
    layers = reference.model.config.n_layer
    hparams = dict(HPARAMS, layers=[min(1, layers - 1)], v_loss_layer=layers - 1)
    documents = [{"text": fact["prompt"] + fact["prediction"]} for fact in json.load(open(f"{world}/known_facts.json"))[:60]]
    goldens = {}
    prompts = [fact["prompt"] for fact in facts]
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            goldens[f"logits_{i}"] = reference.model(**reference.tokenizer(prompt, return_tensors="pt")).logits[0, -1].numpy()
        goldens[f"ids_{i}"] = numpy.array(reference.tokenizer(prompt)["input_ids"])
    traces(reference, facts, goldens)
    moment = reference.second_moment(documents, hparams["layers"][0])
    goldens["moment_count"] = numpy.array(int(moment.count))
    goldens["moment_products"] = probe_vectors(moment.mom2.shape[0]) @ moment.mom2.double().numpy()
    edits(reference, records, hparams, goldens)
    for name, value in (("facts.json", facts), ("records.json", records), ("hparams.json", hparams), ("templates.json", TEMPLATES),
                        ("prompts.json", prompts)):
        write(name, value)
    with open(os.path.join(OUT, "documents.jsonl"), "w") as out:
        out.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    numpy.savez_compressed(os.path.join(OUT, "goldens.npz"), **goldens)


if __name__ == "__main__":
    main()
