#!/usr/bin/env python3
"""Seconds of one forward pass in PyTorch and transformers, as JSON: the counterpart of forward_bench.

    forward.py MODEL --shape 11x12 --shape 8x128 [--repeats 7] [--threads N]
"""
import argparse
import json
import statistics
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model).eval()
    results = []
    for shape in arguments.shape or ["11x12", "8x128"]:
        sequences, tokens = map(int, shape.split("x"))
        ids = torch.tensor([[(s * 7919 + t * 104729 + 17) % model.config.vocab_size for t in range(tokens)]
                            for s in range(sequences)])
        seconds = []
        with torch.no_grad():
            for i in range(arguments.repeats + 1):
                start = time.perf_counter()
                logits = model(input_ids=ids, use_cache=False).logits
                seconds.append(time.perf_counter() - start)
                assert torch.isfinite(logits[0, -1]).all()
        results.append({"shape": shape, "seconds": statistics.median(seconds[1:])})
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__,
                      "transformers": transformers.__version__, "results": results}))


if __name__ == "__main__":
    main()
