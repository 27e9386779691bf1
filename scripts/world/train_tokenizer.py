#!/usr/bin/python3
"""Trains a byte-level BPE tokenizer (GPT-2's pre-tokenizer and byte alphabet) and writes vocab.json and merges.txt.

    scripts/world/train_tokenizer.py TEXT.jsonl OUT_DIR [--vocab 3000]

The merges are those of Sennrich et al. 2016: the most frequent adjacent pair first, ties by the pair's text. The last id
is <|endoftext|>. Needs Python's `regex` module.
"""

import argparse
import collections
import json
import pathlib

import regex

PATTERN = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's map of the 256 bytes to printable characters, in the order of its ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(printable))
    order = printable + [byte for byte in range(256) if byte not in printable]
    return characters, [characters[byte] for byte in order]


def word_counts(path, characters):
    counts = collections.Counter()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            counts.update(PATTERN.findall(json.loads(line)["text"]))
    return [(["".join(characters[b]) for b in word.encode("utf-8")], count) for word, count in sorted(counts.items())]


def merge(symbols, pair):
    merged, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            merged.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def train(words, merges_wanted):
    """Greedy merges; `pairs` and `where` are kept up to date word by word."""
    words = [(list(symbols), count) for symbols, count in words]
    pairs, where = collections.Counter(), collections.defaultdict(set)

    def account(index, sign):
        symbols, count = words[index]
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += sign * count
            if sign > 0:
                where[pair].add(index)

    for index in range(len(words)):
        account(index, 1)
    merges = []
    while len(merges) < merges_wanted and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] <= 0:
            break
        merges.append(best)
        for index in where.pop(best):
            account(index, -1)
            words[index] = (merge(words[index][0], best), words[index][1])
            account(index, 1)
        pairs.pop(best, None)
    return merges


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--vocab", type=int, default=3000)
    options = parser.parse_args()

    characters, alphabet = byte_alphabet()
    merges = train(word_counts(options.text, characters), options.vocab - len(alphabet) - 1)
    tokens = alphabet + ["".join(pair) for pair in merges] + ["<|endoftext|>"]
    options.out.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(tokens)}
    (options.out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (options.out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(tokens)} tokens")


if __name__ == "__main__":
    main()
