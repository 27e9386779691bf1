#!/usr/bin/env python3
"""Seconds and peak memory of the unmodified reference (kmeng01/rome) for one job, as JSON.

    reference.py ROME MODEL trace --facts FILE [--kinds state,mlp,attn] [--noise 0.1] [--token-range subject_last] [--device cuda]
    reference.py ROME MODEL cov   --documents FILE.jsonl --layers 4,5,6,7
    reference.py ROME MODEL edit  --requests FILE --hparams FILE --templates FILE --moment FILE.npz
    reference.py ROME MODEL eval  (as edit: each record edited, scored before and after)
    reference.py MEMIT MODEL memit --requests FILE --hparams FILE --templates FILE --moment FILE.npz,...  (kmeng01/memit, one batch)
"""
import argparse
import json
import os
import resource
import sys
import time

import numpy
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/reference"))
from rome_reference import Reference, quiet  # noqa: E402


def trace(reference, arguments):
    answers = []
    for fact in json.load(open(arguments.facts)):
        for kind in arguments.kinds.split(","):
            result = reference.trace(fact["prompt"], fact["subject"], kind=None if kind == "state" else kind,
                                     noise=arguments.noise, token_range=arguments.token_range)
            answers.append(float(result["scores"].sum()))
    return {"checksum": answers}


def cov(reference, arguments):
    documents = [json.loads(line) for line in open(arguments.documents)]
    return {"tokens": [int(reference.second_moment(documents, int(layer)).count)
                       for layer in arguments.layers.split(",")]}


def prepare_edit(reference, arguments):
    hparams = json.load(open(arguments.hparams))
    moment = numpy.load(arguments.moment)
    reference.use_second_moment(hparams["layers"][0], torch.from_numpy(moment["mom2.mom2"] / moment["mom2.count"])
                                .to(reference.model.device))
    reference.fix_context_templates(json.load(open(arguments.templates)))
    return hparams, json.load(open(arguments.requests))


def edit(reference, arguments, prepared):
    hparams, records = prepared
    return {"update_norms": [float(u.norm() * v.norm()) for u, v, _ in
                             (reference.edit(record["requested_rewrite"], hparams) for record in records)]}


def evaluate(reference, arguments, prepared):
    hparams, records = prepared
    scores = []
    for record in records:
        before = reference.score_counterfact(record)
        u, v, _ = reference.edit(record["requested_rewrite"], hparams)
        weight = reference.nethook.get_parameter(reference.model,
                                                 f"transformer.h.{hparams['layers'][0]}.mlp.c_proj.weight")
        original = weight.detach().clone()
        with torch.no_grad():
            weight += torch.outer(u, v)
            after = reference.score_counterfact(record)
            weight[...] = original
        scores.append([before["rewrite_prompts_probs"], after["rewrite_prompts_probs"]])
    return {"scores": scores}


def prepare_memit(reference, arguments):
    hparams = json.load(open(arguments.hparams))
    moments = {}
    for layer, path in zip(hparams["layers"], arguments.moment.split(","), strict=True):
        moment = numpy.load(path)
        moments[layer] = torch.from_numpy(moment["mom2.mom2"] / moment["mom2.count"])
    requests = [{"case_id": record["case_id"], **record["requested_rewrite"]} for record in json.load(open(arguments.requests))]
    return requests, hparams, json.load(open(arguments.templates)), moments


def memit(reference, arguments, prepared):
    deltas = reference.memit(*prepared)
    return {"update_norms": {name: float((left.double() @ right.double().T).norm()) for name, (left, right) in deltas.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rome")
    parser.add_argument("model")
    parser.add_argument("job", choices=["trace", "cov", "edit", "eval", "memit"])
    for flag in ("facts", "documents", "layers", "requests", "hparams", "templates", "moment"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--kinds", default="state,mlp,attn")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--token-range", choices=["subject_last"], help="the reference's own option; default: all tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in ("model", "facts", "documents", "requests", "hparams", "templates", "moment"):
        if getattr(arguments, name):
            setattr(arguments, name, ",".join(map(os.path.abspath, getattr(arguments, name).split(","))))
    with quiet():
        reference = Reference(arguments.rome, arguments.model, arguments.device)
        prepare = {"edit": prepare_edit, "eval": prepare_edit, "memit": prepare_memit}.get(arguments.job)
        prepared = [prepare(reference, arguments)] if prepare else []
        job = {"trace": trace, "cov": cov, "edit": edit, "eval": evaluate, "memit": memit}[arguments.job]
        start = time.perf_counter()
        outcome = job(reference, arguments, *prepared)
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "threads": torch.get_num_threads(), **outcome}))


if __name__ == "__main__":
    main()
