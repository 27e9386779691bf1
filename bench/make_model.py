#!/usr/bin/python3
"""Writes a GPT-2 of a given shape with random weights as a Hugging Face directory.

    make_model.py --shape small|medium|large|xl|smoke --tokenizer DIR [--vocabulary 50257] [--layers L] [--width D] OUTPUT

Benchmarks need the shape, not the knowledge. DIR holds vocab.json and merges.txt; a vocabulary larger than theirs is filled
up with pairs of their tokens that no text contains.
"""
import argparse
import json
import os
import struct

import numpy

SHAPES = {"small": (12, 768, 12), "medium": (24, 1024, 16), "large": (36, 1280, 20), "xl": (48, 1600, 25),
          "smoke": (3, 64, 4)}


def parameters(layers, width, vocabulary, positions):
    """(name, shape, spread of its values; 1 means all ones)."""
    yield "wte.weight", (vocabulary, width), 0.02
    yield "wpe.weight", (positions, width), 0.01
    residual = 0.02 / (2 * layers) ** 0.5
    for layer in range(layers):
        block = f"h.{layer}."
        for norm in ("ln_1", "ln_2"):
            yield block + norm + ".weight", (width,), 1
            yield block + norm + ".bias", (width,), 0.01
        for name, inputs, outputs, spread in (("attn.c_attn", width, 3 * width, 0.02), ("attn.c_proj", width, width, residual),
                                              ("mlp.c_fc", width, 4 * width, 0.02), ("mlp.c_proj", 4 * width, width, residual)):
            yield block + name + ".weight", (inputs, outputs), spread
            yield block + name + ".bias", (outputs,), 0.01
    yield "ln_f.weight", (width,), 1
    yield "ln_f.bias", (width,), 0.01


def unseen_pairs(words):
    """A token and one that starts with a space: text is split before spaces, so these never meet."""
    spaced = [word for word in words if word.startswith("\u0120")]
    return ((first, second) for second in spaced for first in words if not first.startswith("<|"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--vocabulary", type=int, default=0)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--layers", type=int, help="instead of the shape's")
    parser.add_argument("--width", type=int, help="instead of the shape's, with heads of 64")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    layers, width, heads = SHAPES[arguments.shape]
    layers = arguments.layers or layers
    if arguments.width:
        width, heads = arguments.width, arguments.width // 64
    os.makedirs(arguments.output, exist_ok=True)
    words = json.load(open(os.path.join(arguments.tokenizer, "vocab.json")))
    merges = open(os.path.join(arguments.tokenizer, "merges.txt")).read().rstrip("\n").split("\n")
    for first, second in unseen_pairs(list(words)):
        if len(words) >= arguments.vocabulary:
            break
        if first + second not in words:
            words[first + second] = len(words)
            merges.append(f"{first} {second}")
    with open(os.path.join(arguments.output, "merges.txt"), "w") as out:
        out.write("\n".join(merges) + "\n")
    json.dump(words, open(os.path.join(arguments.output, "vocab.json"), "w"), ensure_ascii=False)
    vocabulary = len(words)
    end_of_text = words.get("<|endoftext|>", vocabulary - 1)
    json.dump({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers, "n_embd": width,
               "n_head": heads, "n_positions": arguments.positions, "vocab_size": vocabulary,
               "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": end_of_text,
               "eos_token_id": end_of_text, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0},
              open(os.path.join(arguments.output, "config.json"), "w"), indent=1)
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    made = list(parameters(layers, width, vocabulary, arguments.positions))
    for name, shape, _ in made:
        end = begin + 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Normal values are drawn once; a parameter starts at a place of its own among them.
    random = numpy.random.default_rng(arguments.seed)
    largest = max(int(numpy.prod(shape)) for _, shape, _ in made)
    pool = random.standard_normal(min(largest, 1 << 24), dtype=numpy.float32)
    weights = os.path.join(arguments.output, "model.safetensors")
    with open(weights + ".new", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape, spread in made:
            count = int(numpy.prod(shape))
            if spread == 1:
                out.write(numpy.ones(count, numpy.float32).tobytes())
                continue
            start = int(random.integers(len(pool) - min(count, len(pool)) // 2))
            out.write(numpy.resize(pool[start:start + count] * numpy.float32(spread), count).tobytes())
    os.replace(weights + ".new", weights)  # who finds it finds it whole


if __name__ == "__main__":
    main()
