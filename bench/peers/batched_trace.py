#!/usr/bin/env python3
"""Seconds and peak memory of a causal trace in PyTorch with the restorations of a fact in large batches, as JSON.

    batched_trace.py MODEL --facts FILE [--kinds state,mlp,attn] [--noise 0.1] [--samples 10] [--window 10] [--batch 480]
                     [--device cuda] [--precision fp32|tf32]

What a careful user of PyTorch would write instead of the reference's one restoration at a time: every (token, layer, sample)
is a sequence of a batch, hooks put the clean rows back where each sequence wants them, and only the last position meets the
unembedding. Restorations left of the subject are left out, since they change nothing.
"""
import argparse
import json
import resource
import time

import numpy
import torch
import transformers


def untuple(output):
    return output[0] if isinstance(output, tuple) else output


class BatchedTrace:
    def __init__(self, model, samples, window, batch):
        self.model, self.samples, self.window, self.batch = model, samples, window, batch
        self.blocks = model.transformer.h
        self.wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None

    def modules(self, kind):
        return [{"state": b, "mlp": b.mlp, "attn": b.attn}[kind] for b in self.blocks]

    def last_logits(self, ids):
        return self.model.lm_head(self.model.transformer(input_ids=ids, use_cache=False).last_hidden_state[:, -1])

    def clean_rows(self, ids, kind):
        rows, hooks = {}, []
        for layer, module in enumerate(self.modules(kind)):
            hooks.append(module.register_forward_hook(
                lambda _, __, output, layer=layer: rows.__setitem__(layer, untuple(output)[0].clone())))
        logits = self.last_logits(ids)
        for hook in hooks:
            hook.remove()
        return rows, logits[0]

    def run(self, ids, noise, subject, restored, clean, kind, answer):
        """Probabilities of `answer` for sequences that restore (token, first layer, last layer + 1) with a sample's noise."""
        begin, end = subject
        token = torch.tensor([t for t, _, _, _ in restored])
        first = torch.tensor([a for _, a, _, _ in restored])
        last = torch.tensor([b for _, _, b, _ in restored])
        noises = torch.stack([noise[s] for _, _, _, s in restored])

        def corrupt(_, __, output):
            output = output.clone()
            output[:, begin:end] += noises
            return output

        def restore(_, __, output, layer):
            rows = torch.nonzero((first <= layer) & (layer < last)).flatten()
            if len(rows):
                untuple(output)[rows, token[rows]] = clean[layer][token[rows]]
            return output

        hooks = [self.model.transformer.wte.register_forward_hook(corrupt)]
        for layer, module in enumerate(self.modules(kind)):
            hooks.append(module.register_forward_hook(lambda m, i, o, layer=layer: restore(m, i, o, layer)))
        logits = self.last_logits(ids.expand(len(restored), -1))
        for hook in hooks:
            hook.remove()
        return torch.softmax(logits, -1)[:, answer]

    def trace(self, prompt_ids, subject, noise_level, kind):
        ids = torch.tensor([prompt_ids], device=self.model.device)
        clean, logits = self.clean_rows(ids, kind)
        answer = int(logits.argmax())
        layers, tokens = len(self.blocks), len(prompt_ids)
        drawn = numpy.random.RandomState(1).randn(self.samples, subject[1] - subject[0], self.model.config.n_embd)
        noise = (noise_level * torch.from_numpy(drawn)).to(self.model.device, torch.float32)
        cells = [(t, l) for t in range(subject[0], tokens) for l in range(layers)]
        restored = []
        for t, l in cells:
            span = (l, l + 1) if kind == "state" else (max(0, l - self.window // 2), min(layers, l - (-self.window // 2)))
            restored += [(t, *span, s) for s in range(self.samples)]
        found = torch.cat([self.run(ids, noise, subject, restored[i:i + self.batch], clean, kind, answer)
                           for i in range(0, len(restored), self.batch)])
        corrupted = self.run(ids, noise, subject, [(0, 0, 0, s) for s in range(self.samples)], clean, kind, answer).mean()
        scores = corrupted.expand(tokens, layers).clone()
        scores[subject[0]:] = found.view(tokens - subject[0], layers, self.samples).mean(-1)
        return scores


def find_subject(tokenizer, ids, subject):
    """The reference's rule: the tokens whose texts, joined, hold the subject."""
    texts = [tokenizer.decode([i]) for i in ids]
    start = "".join(texts).index(subject)
    begin = end = None
    position = 0
    for i, text in enumerate(texts):
        position += len(text)
        if begin is None and position > start:
            begin = i
        if end is None and position >= start + len(subject):
            end = i + 1
    return begin, end


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--facts", required=True)
    parser.add_argument("--kinds", default="state,mlp,attn")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--batch", type=int, default=480)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32"], default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = arguments.precision == "tf32"
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    tracer = BatchedTrace(model.to(arguments.device), arguments.samples, arguments.window, arguments.batch)
    facts = json.load(open(arguments.facts))
    checksum = []
    with torch.inference_mode():
        start = time.perf_counter()
        for fact in facts:
            ids = tokenizer(fact["prompt"])["input_ids"]
            subject = find_subject(tokenizer, ids, fact["subject"])
            for kind in arguments.kinds.split(","):
                checksum.append(float(tracer.trace(ids, subject, arguments.noise, kind).sum()))
        tracer.wait()
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "threads": torch.get_num_threads(), "checksum": checksum}))


if __name__ == "__main__":
    main()
