#!/usr/bin/env python3
"""Seconds of one forward pass in PyTorch and transformers, as JSON: the counterpart of forward_bench.

    forward.py MODEL --shape 11x12 --shape 8x128 [--device cuda] [--precision fp32|tf32|bf16|bf16-autocast] [--repeats 7]
               [--threads N]

Attention is PyTorch's scaled_dot_product_attention. fp32 and tf32 differ in what matrix products may do; bf16 keeps weights
and activations in bf16 throughout, bf16-autocast weights and the residual stream in fp32.
"""
import argparse
import contextlib
import json
import statistics
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "bf16-autocast"], default="fp32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = arguments.precision == "tf32"
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    model = model.to(arguments.device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32)
    wait = torch.cuda.synchronize if arguments.device.startswith("cuda") else lambda: None
    autocast = torch.autocast(arguments.device.split(":")[0], torch.bfloat16) if arguments.precision == "bf16-autocast" \
        else contextlib.nullcontext()
    results = []
    for shape in arguments.shape or ["11x12", "8x128"]:
        sequences, tokens = map(int, shape.split("x"))
        ids = torch.tensor([[(s * 7919 + t * 104729 + 17) % model.config.vocab_size for t in range(tokens)]
                            for s in range(sequences)], device=arguments.device)
        seconds = []
        with torch.inference_mode(), autocast:
            for i in range(arguments.repeats + 2):
                wait()
                start = time.perf_counter()
                logits = model(input_ids=ids, use_cache=False).logits
                wait()
                seconds.append(time.perf_counter() - start)
                assert torch.isfinite(logits[0, -1]).all()
                del logits
        results.append({"shape": shape, "seconds": statistics.median(seconds[2:])})
    made = {"threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
            "device": arguments.device, "precision": arguments.precision, "results": results}
    if arguments.device.startswith("cuda"):
        made["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(made))


if __name__ == "__main__":
    main()
