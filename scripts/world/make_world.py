#!/usr/bin/python3
"""Writes the fact world: training text, record files and fact files, from data/world/facts and relations.json.

    scripts/world/make_world.py [--seed 1] [--epochs 120] [--out data/world] [--text build/world]

Every relation has eight phrasings. Two of them, drawn per fact, are held out: no training document tells that fact in
them (other facts of the relation do use them), so they are paraphrases the model has never seen with that subject.

Files (all deterministic by seed):
  TEXT/train.jsonl, valid.jsonl   documents of one to six facts, with the byte ranges of the facts' subjects;
                                  valid.jsonl tells facts in held-out phrasings
  OUT/known_facts.json            one seen phrasing per fact, in the known-facts format of causal tracing
  OUT/heldout_facts.json          one held-out phrasing per fact, same format
  OUT/context_templates.json      texts in front of which an edit's prompt is put: beginnings of training documents
  OUT/demo_request.json           one record: Geneva moves to Italy
  OUT/records_{tune,test}.json    records in CounterFact's format; hyper-parameters may be chosen on `tune` only
"""

import argparse
import json
import pathlib
import random
from dataclasses import dataclass

HELD_OUT = 2
NEIGHBOURS = 5
TEST_RECORDS = 300
TUNE_RECORDS = 300
ROOT = pathlib.Path(__file__).resolve().parents[2]

FILLERS = [
    "This is well known.", "It rained all day.", "Here is another fact.", "Many people know this.",
    "The story goes on.", "Some of it was new to me.", "We read this in a book.", "The teacher wrote it down.",
    "That is easy to remember.", "Nobody was surprised.", "Let us go on.", "The list is long.",
    "In the evening we talked about it.", "There is more to say.", "A friend told me so.", "It was a long trip.",
    "The old map hung on the wall.", "They asked many questions.", "He wrote a letter about it.", "She knew the answer.",
    "Then the lesson was over.", "It is worth a visit.", "The paper printed it.", "I learned this at school.",
]


@dataclass(frozen=True)
class Fact:
    """One triple with the phrasings it is told in and those it never is."""

    relation: str
    kind: str
    subject: str
    object: str
    seen: tuple
    held_out: tuple

    def prompt(self, phrasing):
        return phrasing.replace("{}", self.subject)


def read_facts(world, seed):
    facts = []
    for relation in json.loads((world / "relations.json").read_text(encoding="utf-8")):
        name = relation["relation"]
        for number, line in enumerate((world / "facts" / f"{name}.tsv").read_text(encoding="utf-8").splitlines(), 1):
            fields = line.split("\t")
            if len(fields) != 2 or not all(fields):
                raise SystemExit(f"facts/{name}.tsv:{number}: a line is SUBJECT <tab> OBJECT")
            order = list(relation["phrasings"])
            random.Random(f"{seed}/{name}/{fields[0]}").shuffle(order)
            facts.append(Fact(name, relation["kind"], fields[0], fields[1], tuple(order[HELD_OUT:]),
                              tuple(order[:HELD_OUT])))
    return facts


def fact_sentence(fact, phrasing):
    """A sentence and the character at which the fact's subject begins."""
    return f"{fact.prompt(phrasing)} {fact.object}.", phrasing.index("{}"), fact.subject


def kind_sentence(subject, kind):
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{subject} is {article} {kind}.", 0, subject


def document(sentences):
    """Joins sentences; `subjects` holds the byte ranges [begin, end) of the facts' subjects in the text."""
    text, subjects = "", []
    for sentence, begin, subject in sentences:
        text += " " if text else ""
        if subject:
            first = len((text + sentence[:begin]).encode("utf-8"))
            subjects.append([first, first + len(subject.encode("utf-8"))])
        text += sentence
    return {"text": text, "subjects": subjects}


def documents(facts, epochs, rng, phrasings_of):
    """Documents of one to six sentences; an epoch tells every fact once, phrasings in turn."""
    turn = {fact: rng.sample(phrasings_of(fact), len(phrasings_of(fact))) for fact in facts}
    kinds = sorted({(fact.subject, fact.kind) for fact in facts})
    for epoch in range(epochs):
        sentences = []
        for fact in facts:
            phrasing = turn[fact][epoch % len(turn[fact])]
            sentences.append(fact_sentence(fact, phrasing))
        sentences += [kind_sentence(*kind) for kind in rng.sample(kinds, len(kinds) // 4)]
        sentences += [(filler, 0, "") for filler in rng.choices(FILLERS, k=len(facts) // 12)]
        rng.shuffle(sentences)
        start = 0
        while start < len(sentences):
            count = rng.choice((1, 1, 2, 3, 4, 5, 6))
            yield document(sentences[start:start + count])
            start += count


def known_fact(number, fact, phrasing):
    return {"known_id": number, "subject": fact.subject, "attribute": fact.object, "template": phrasing,
            "prediction": f" {fact.object}.", "prompt": fact.prompt(phrasing), "relation_id": fact.relation}


def record(case_id, fact, others, alternatives, context, rng):
    """One CounterFact record. `others`: facts with the same relation and object; `alternatives`: facts with the same
    relation and another object, the first of which gives the new target."""
    prompt = next((p for p in fact.seen if not p.startswith("{}")), fact.seen[0])
    target = alternatives[0].object
    same_target = [f for f in alternatives if f.object == target]
    before = f"{context.prompt(rng.choice(context.seen))} {context.object}. "

    def paraphrase(phrasing, always_after):
        # A name that begins a text has no space before it and so other tokens: it always stands after other text.
        return (before if always_after or phrasing.startswith("{}") else "") + fact.prompt(phrasing)

    return {
        "case_id": case_id,
        "pararel_idx": case_id,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": fact.relation,
            "target_new": {"str": target, "id": target},
            "target_true": {"str": fact.object, "id": fact.object},
            "subject": fact.subject,
        },
        "paraphrase_prompts": [paraphrase(fact.held_out[0], False), paraphrase(fact.held_out[1], True)],
        "neighborhood_prompts": [f.prompt(rng.choice(f.seen)) for f in others[:NEIGHBOURS]],
        "attribute_prompts": [f.prompt(rng.choice(f.seen)) for f in same_target[:NEIGHBOURS]],
        "generation_prompts": [fact.prompt(p) for p in fact.seen[:3]],
    }


def records(facts, seed):
    """Records for every fact that has three neighbours and an alternative object, shuffled."""
    rng = random.Random(f"{seed}/records")
    made = []
    for fact in facts:
        same = [f for f in facts if f.relation == fact.relation and f.subject != fact.subject]
        # An object is no alternative where it is also true of the subject in that relation's sister relation.
        own = {f.object for f in facts if f.subject == fact.subject}
        others = [f for f in same if f.object == fact.object]
        alternatives = [f for f in same if f.object not in own]
        if len(others) < 2 or not alternatives:
            continue
        rng.shuffle(others)
        rng.shuffle(alternatives)
        context = rng.choice([f for f in facts if f.relation != fact.relation and f.subject != fact.subject])
        made.append(record(0, fact, others, alternatives, context, rng))
    rng.shuffle(made)
    for number, entry in enumerate(made):
        entry["case_id"] = entry["pararel_idx"] = number
    return made


def demo_record(facts, seed):
    """Geneva moves to Italy: a fact whose trace shows the early layers at the subject, where the edit is made."""
    same = [f for f in facts if f.relation == "city_country"]
    fact = next(f for f in same if f.subject == "Geneva")
    others = [f for f in same if f.object == fact.object and f != fact]
    alternatives = [f for f in same if f.object == "Italy"]
    context = next(f for f in facts if f.relation == "scientist_field")
    return record(0, fact, others, alternatives, context, random.Random(f"{seed}/demo"))


def context_templates(documents, rng):
    """`{}` alone and after the first four or nine words of documents."""
    templates = ["{}"]
    for words in [4] * 5 + [9] * 5:
        text = rng.choice([d["text"] for d in documents if d["text"].count(" ") >= words])
        templates.append(" ".join(text.split(" ")[:words]).rstrip(".,:") + ". {}")
    return templates


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_lines(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for entry in entries:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=120, help="times every fact is told in train.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "data/world")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "build/world")
    options = parser.parse_args()

    facts = read_facts(ROOT / "data/world", options.seed)
    rng = random.Random(f"{options.seed}/text")
    write_lines(options.text / "train.jsonl", documents(facts, options.epochs, rng, lambda f: f.seen))
    write_lines(options.text / "valid.jsonl", documents(facts, HELD_OUT, rng, lambda f: f.held_out))
    order = random.Random(f"{options.seed}/order").sample(facts, len(facts))  # the first hundred are of all relations
    write_json(options.out / "known_facts.json", [known_fact(i, f, f.seen[0]) for i, f in enumerate(order)])
    write_json(options.out / "heldout_facts.json", [known_fact(i, f, f.held_out[0]) for i, f in enumerate(order)])
    made = records(facts, options.seed)
    sample = list(documents(facts, 1, random.Random(f"{options.seed}/templates"), lambda f: f.seen))
    templates = context_templates(sample, random.Random(f"{options.seed}/context"))
    write_json(options.out / "context_templates.json", templates)
    write_json(options.out / "demo_request.json", [demo_record(facts, options.seed)])
    write_json(options.out / "records_test.json", made[:TEST_RECORDS])
    write_json(options.out / "records_tune.json", made[TEST_RECORDS:TEST_RECORDS + TUNE_RECORDS])
    print(f"{len(facts)} facts, {len({f.relation for f in facts})} relations, {len(made)} records")


if __name__ == "__main__":
    main()
