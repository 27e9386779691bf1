#!/usr/bin/env python3
"""Megabytes of text that the tokenizers library encodes in a second on one core, as JSON: the peer of bench/tokenizer_bench.cpp.

    tokenize_text.py MODEL TEXT [REPEATS]

MODEL is a folder with tokenizer.json. `checksum` is over all ids and must be that of loci.
"""
import json
import os
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402


def measure(tokenizer, documents, repeats):
    checksum, tokens = 0, 0
    for encoding in tokenizer.encode_batch_fast(documents):
        tokens += len(encoding.ids)
        for token in encoding.ids:
            checksum = (checksum * 31 + token) % 1_000_000_007
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        tokenizer.encode_batch_fast(documents)
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    return {"tokens": tokens, "checksum": checksum, "megabytes_per_second": megabytes / seconds[len(seconds) // 2],
            "fastest": megabytes / seconds[0]}


def main():
    model, text = sys.argv[1:3]
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    whole = open(text, encoding="utf-8", newline="").read()
    lines = [line + "\n" for line in whole.split("\n")]
    lines[-1] = lines[-1][:-1]  # what follows the last line end
    result = {"version": tokenizers.__version__,
              "lines": measure(tokenizer, [line for line in lines if line], repeats),
              "whole": measure(tokenizer, [whole], repeats)}
    print(json.dumps(result, indent=1))


main()
