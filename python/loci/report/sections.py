"""What a report shows of each kind of result, as plain data: the page draws tables, figures and pairs, and knows no kinds.

A table is {caption, columns: [{name, type, note}], rows}; a cell may be (value, half width of its interval). A figure is {type:
"heat" | "bars" | "lines", title, ...}. Numbers that do not exist are None.
"""
from __future__ import annotations

import math
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from loci import results

__all__ = ["Section", "section_of"]

Data = Dict[str, Any]
TITLES = {"trace": "Causal traces", "edits": "Edits", "eval": "Evaluation", "comparison": "Comparison of methods",
          "second_moments": "Second moments", "tokens": "Token stream", "training": "Training"}
RESTORED = {"state": "one hidden state", "mlp": "MLP outputs", "attn": "attention outputs"}
SERIES = {"ordinary": "nothing severed", "no_attn": "attention severed", "no_mlp": "MLPs severed"}
LOSSES = {"total": "total", "target_nll": "target: -log p", "kl": "KL divergence", "decay": "weight decay"}
MOST_BARS = 16  # layers; more are drawn as lines


def number(value: Any) -> Any:
    """A number as JSON can hold it: None for one that is not finite."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, tuple):
        return [number(part) for part in value]
    return float(value) if math.isfinite(value) else None


def numbers(values: Iterable[Any]) -> List[Any]:
    """Numbers of fp32 with seven digits, which is what they hold; others with all of theirs."""
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return [float("%.7g" % value) if math.isfinite(value) else None for value in values.tolist()]
    return [number(value) for value in values]


def matrix(values: np.ndarray) -> List[List[Any]]:
    return [numbers(row) for row in values]


def columns_of(*columns: Tuple[str, ...]) -> List[Data]:
    """(name, type) or (name, type, what it means)"""
    return [dict(zip(("name", "type", "note"), column)) for column in columns]


def table(caption: str, columns: List[Data], rows: Iterable[Sequence[Any]]) -> Data:
    return {"caption": caption, "columns": columns, "rows": [numbers(row) for row in rows]}


class Section:
    """One result. Subclasses say what its figures and tables are, and what each of its cases shows."""

    case_columns: List[Data] = []
    case_caption = ""

    def __init__(self, result: Any):
        self.result = result

    def __len__(self) -> int:
        """The number of cases."""
        return 0

    def key_figures(self) -> List[Tuple[str, Any]]:
        return []

    def figures(self) -> List[Data]:
        return []

    def tables(self) -> List[Data]:
        return []

    def case(self, place: int) -> Tuple[List[Any], Data]:
        """The row of a case, and what it shows when it is opened: {pairs, figures, tables}."""
        raise IndexError(place)

    def data(self) -> Data:
        """All but the cases."""
        result = self.result
        kind = result.kind
        return {"kind": kind, "title": TITLES[kind], "file": result.path, "pairs": [[n, number(v)] for n, v in self.key_figures()],
                "figures": self.figures(), "tables": self.tables(), "skipped": result.skipped_records,
                "cases": {"caption": self.case_caption, "columns": self.case_columns, "count": len(self)},
                "about": {"Configuration": result.config, "Input files": result.inputs, "Provenance": result.provenance}}


# --- Traces ----------------------------------------------------------------------------------------------------------


def severed_figure(title: str, effects: Dict[str, Any], intervals: Dict[str, Any]) -> Data:
    """Bars, or lines where there are many layers."""
    series = [{"name": SERIES[name], "values": numbers(effects[name]), "intervals": numbers(intervals.get(name, []))}
              for name in SERIES if name in effects]
    layers = len(next(iter(effects.values())))
    return {"type": "bars" if layers <= MOST_BARS else "lines", "title": title, "x": list(range(layers)), "series": series,
            "x_label": "layer at which the state is restored", "y_label": "indirect effect"}


class TraceSection(Section):
    case_caption = "Facts. Effects are p(answer) less p(answer) when corrupted."
    case_columns = columns_of(
        ("fact", "text"), ("prompt", "text"), ("answer", "text", "the most likely next token"), ("expected", "text"),
        ("traced", "yesno", "no: the model predicted something else"), ("clean", "number", "p(answer), nothing corrupted"),
        ("corrupted", "number", "p(answer), subject corrupted"),
        ("best effect", "number", "largest effect of one state at the subject's last token"), ("layer", "number", "of the best effect"))

    def __init__(self, result: results.Trace):
        super().__init__(result)
        self.facts = result.facts
        self.window = result.window

    def __len__(self) -> int:
        return len(self.facts)

    def restored(self, kind: str) -> str:
        return RESTORED[kind] if kind == "state" else f"{RESTORED[kind]} of {self.window} layer{'' if self.window == 1 else 's'}"

    def key_figures(self) -> List[Tuple[str, Any]]:
        averages = next(iter(self.result.averages.values()), None)
        pairs = [("model", self.result.model_name), ("facts", len(self.facts)), ("traced", sum(fact.traced for fact in self.facts)),
                 ("layers", self.result.layers), ("noise level", self.result.noise_level)]
        names = (("clean p(answer)", "mean_high"), ("corrupted p(answer)", "mean_low"), ("total effect", "total_effect"))
        return pairs + [(words, averages.fields.optional(name)) for words, name in names if averages]

    def figures(self) -> List[Data]:
        found = [self.average(average) for average in self.result.averages.values()]
        severed = self.result.severed
        if severed:
            found.append(severed_figure(f"Average effect of the state at the subject's last token, mean over {severed.cases} facts",
                                        severed.effects, severed.confidence))
        return found

    def average(self, average: results.Average) -> Data:
        effect, interval, cases = average.indirect_effect, average.confidence, average.row_cases
        there = [i for i, row in enumerate(effect) if not np.isnan(row).all()]
        rows = average.rows
        return {"type": "heat", "title": f"Average indirect effect: {self.restored(average.kind)}", "colour": average.kind,
                "rows": [f"{rows[i]} (n={cases[i]})" for i in there], "values": matrix(effect[there]),
                "intervals": matrix(interval[there]), "nothing": 0, "x_label": "layer", "y_label": "kind of token"}

    def case(self, place: int) -> Tuple[List[Any], Data]:
        fact = self.facts[place]
        low, best, layer, figures = None, None, None, []
        if fact.traced:
            low, figures = fact.low_score, self.case_figures(fact)
            if "state" in fact.kinds:
                effects = fact.scores("state")[fact.subject_range[1] - 1] - low
                layer = int(effects.argmax())
                best = float(effects[layer])
        expected = fact.fields.optional("attribute", "")
        row = [fact.name, fact.prompt, fact.answer.strip(), expected, fact.traced, fact.high_score, low, best, layer]
        pairs = [["prompt", fact.prompt], ["subject", fact.subject], ["answer", fact.answer.strip()], ["expected", expected],
                 ["clean p(answer)", number(fact.high_score)], ["corrupted p(answer)", number(low)]]
        return numbers(row), {"pairs": pairs, "figures": figures}

    def case_figures(self, fact: results.Fact) -> List[Data]:
        low = fact.low_score
        found = [self.heat_map(fact, kind, fact.scores(kind), low) for kind in fact.kinds]
        severed = {name: scores - low for name, scores in fact.severed.items()}
        return found + ([severed_figure("Effect of the state at the subject's last token", severed, {})] if severed else [])

    def heat_map(self, fact: results.Fact, kind: str, scores: np.ndarray, low: float) -> Data:
        begin, end = fact.subject_range
        tokens = [token + ("*" if begin <= i < end else "") for i, token in enumerate(fact.tokens)]
        return {"type": "heat", "title": f"p(answer) with {self.restored(kind)} restored", "colour": kind, "rows": tokens,
                "values": matrix(scores), "nothing": number(low), "x_label": "layer", "y_label": "token (*: subject)"}


# --- Edits -----------------------------------------------------------------------------------------------------------


class EditsSection(Section):
    case_caption = "Edits. Probabilities are those of the whole target after the bare prompt."
    case_columns = columns_of(
        ("edit", "text"), ("prompt", "text"), ("true target", "text"), ("new target", "text"),
        ("took", "yesno", "each token of the new target is the most likely one"), ("p(new) before", "number"), ("p(new) after", "number"),
        ("p(true) before", "number"), ("p(true) after", "number"), ("says before", "text", "the most likely next token"),
        ("says after", "text", "the most likely next token"), ("layer", "number"), ("method", "text"))

    def __len__(self) -> int:
        return len(self.result)

    def key_figures(self) -> List[Tuple[str, Any]]:
        edits = list(self.result)
        return [("edits", len(edits)), ("took", sum(bool(edit.took) for edit in edits)), ("mode", self.result.fields.optional("mode")),
                ("methods", ", ".join(sorted({edit.method for edit in edits})))]

    def case(self, place: int) -> Tuple[List[Any], Data]:
        edit = self.result[place]
        says = [(edit.most_likely(when) or "").strip() for when in results.WHEN]
        chances = [edit.probability(which, when) for which in ("new", "true") for when in results.WHEN]
        row = [str(place), edit.prompt, edit.target("true"), edit.target("new"), edit.took, *chances, *says, edit.layer, edit.method]
        answers = table("Answers to the prompt", columns_of(("measured", "text"), ("before", "number"), ("after", "number")),
                        [["p(new target)", *chances[:2]], ["p(true target)", *chances[2:]], ["the model says", *says]])
        pairs = [[name, number(value)] for name, value in (
            ("prompt", edit.prompt), ("subject", edit.subject), ("case id", edit.fields.optional("case_id")),
            ("norm of the update", edit.fields.optional("update_norm")), ("seconds", edit.fields.optional("seconds")))]
        return numbers(row), {"pairs": pairs, "tables": [answers], "figures": loss_figures(edit)}


def loss_figures(edit: results.Edit) -> List[Data]:
    curve = edit.loss_curve
    found = []
    for title, label, names in (("Loss while the value was sought", "loss (nats)", LOSSES),
                                ("Mean probability of the new target", "probability", {"target_probability": "p(new target)"})):
        series = [{"name": words, "values": numbers(curve[name])} for name, words in names.items() if name in curve]
        if series:
            found.append({"type": "lines", "title": title, "x": list(range(len(series[0]["values"]))), "series": series, "x_label": "step",
                          "y_label": label})
    return found


# --- Evaluations -----------------------------------------------------------------------------------------------------


def success(prompts: List[results.Prompt], kind: str, when: str, by_likelihood: bool) -> Optional[float]:
    """The mean over a record's prompts of one kind: CounterFact counts prompts whose wanted target is the likelier one, zsRE the
    answer's tokens that are the most likely ones."""
    of_kind = [prompt.targets for prompt in prompts if prompt.kind == kind and prompt.targets]
    if not of_kind or getattr(of_kind[0][0], when) is None:
        return None
    if not by_likelihood:
        return float(np.mean([getattr(targets[0], f"said_{when}") for targets in of_kind]))
    wins = [getattr(new, when) > getattr(true, when) for new, true, *_ in of_kind]
    if kind == "neighborhood":
        wins = [getattr(true, when) > getattr(new, when) for new, true, *_ in of_kind]
    return float(np.mean(wins))


class EvaluationSection(Section):
    KINDS = (("rewrite", "E"), ("paraphrase", "P"), ("neighborhood", "N"))
    case_caption = "Records. The columns are the record's own means of the metrics above."

    def __init__(self, result: results.Evaluation):
        super().__init__(result)
        self.when = results.WHEN if result.edited else results.WHEN[:1]
        self.by_likelihood = result.dataset == "counterfact"
        letter = "S" if self.by_likelihood else "A"
        self.case_columns = columns_of(
            ("record", "text"), ("prompt", "text"), ("true target", "text"), ("new target", "text"),
            *((f"{first}{letter} {when}", "percent", f"{kind} prompts") for kind, first in self.KINDS for when in self.when),
            *((f"p(new) {when}", "number", "after the rewrite prompt") for when in self.when))

    def __len__(self) -> int:
        return len(self.result)

    def key_figures(self) -> List[Tuple[str, Any]]:
        return [("model", self.result.model_name), ("data set", self.result.dataset), ("records", len(self.result)),
                ("scored", " and ".join(self.when) + " the edit" if self.result.edited else "as it is")]

    def tables(self) -> List[Data]:
        summary = self.result.columns("summary")
        columns, values = [("metric", "text"), ("meaning", "text")], [summary["name"], summary["long_name"]]
        for when in self.when:
            columns.append((when, "percent"))
            values.append(zip(summary[when], summary[f"{when}_interval"]))
        return [table("Metrics: means over records, in per cent, with 95 % intervals", columns_of(*columns, ("records", "number")),
                      zip(*values, summary["records"]))]

    def case(self, place: int) -> Tuple[List[Any], Data]:
        case = self.result.case(place)
        rewrite = next((prompt.targets[0] for prompt in case.prompts if prompt.kind == "rewrite" and prompt.targets), None)
        row = [str(case.case_id), case.prompt, case.target("true"), case.target("new"),
               *(success(case.prompts, kind, when, self.by_likelihood) for kind, _ in self.KINDS for when in self.when),
               *(getattr(rewrite, when, None) for when in self.when)]
        columns = columns_of(("kind", "text"), ("prompt", "text"), ("target", "text"),
                             *((f"p {when}", "number", "geometric mean over the target's tokens") for when in self.when),
                             *((f"said {when}", "percent", "tokens that are the most likely ones") for when in self.when))
        rows = [[prompt.kind, prompt.text, target.text.strip(), *(getattr(target, when) for when in self.when),
                 *(getattr(target, f"said_{when}") for when in self.when)] for prompt in case.prompts for target in prompt.targets]
        return numbers(row), {"pairs": [["request", case.prompt], ["true target", case.target("true")], ["new target", case.target("new")]],
                              "tables": [table("Prompts and answers", columns, rows)]}


# --- Comparisons -----------------------------------------------------------------------------------------------------


class ComparisonSection(Section):
    SHOWN = 3  # metrics that have a figure: efficacy, paraphrase, neighbourhood
    case_caption = "Records, after the largest number of edits: the mean of efficacy, paraphrase and neighbourhood."

    def __init__(self, result: results.Comparison):
        super().__init__(result)
        self.rows, self.metrics, self.mean, self.interval = result.rows, result.metrics, result.mean, result.interval
        self.methods, self.points = result.methods, result.edits_at
        self.names = [f"{method}, {edits} edit{'' if edits == 1 else 's'}" if edits else method
                      for method, edits in zip(self.rows["method"], self.rows["edits"])]
        self.last = [1 + (i + 1) * len(self.points) - 1 for i in range(len(self.methods))]
        self.case_ids = result.case_ids
        self.values: Any = result.values if result.fields.has("values") else None
        self.case_columns = columns_of(("record", "text"), *((method, "percent") for method in self.methods))

    def __len__(self) -> int:
        return len(self.case_ids) if self.values is not None else 0

    def key_figures(self) -> List[Tuple[str, Any]]:
        attribute = self.result.fields.attribute
        return [("model", attribute("model_name")), ("data set", attribute("dataset")), ("edits", attribute("mode")),
                ("records", len(self.case_ids)), ("methods", ", ".join(self.methods))]

    def figures(self) -> List[Data]:
        long_names = self.result.fields.texts("metrics/long_name") if self.result.fields.has("metrics/long_name") else self.metrics
        found = [self.over_edits(f"{self.metrics[i]} ({long_names[i]})", 100 * self.mean[:, i], 100 * self.interval[:, i], "per cent of records")
                 for i in range(self.SHOWN)]
        if np.isfinite(self.rows["perplexity"]).any():
            found.append(self.over_edits("Perplexity of text that no edit is about", self.rows["perplexity"], None, "perplexity"))
        return found + self.retention()

    def over_edits(self, title: str, values: np.ndarray, intervals: Optional[np.ndarray], label: str) -> Data:
        count = len(self.points)
        series = [{"name": "unedited", "values": numbers([values[0]] * count), "dashed": True}]
        for i, method in enumerate(self.methods):
            rows = slice(1 + i * count, 1 + (i + 1) * count)
            series.append({"name": method, "values": numbers(values[rows]), "intervals": [] if intervals is None else numbers(intervals[rows])})
        return {"type": "lines", "title": title, "x": numbers(self.points), "series": series, "x_label": "edits", "y_label": label}

    def retention(self) -> List[Data]:
        kept = self.result.retention
        if kept is None:
            return []
        firsts = [1, *(int(last) + 1 for last in self.points[:-1])]
        groups = [f"edits {first} to {last}" for first, last in zip(firsts, self.points)]
        return [{"type": "lines", "title": f"What later edits leave of earlier ones: {method}", "x": numbers(self.points),
                 "series": [{"name": group, "values": numbers(100 * kept[i][:, g])} for g, group in enumerate(groups)],
                 "x_label": "edits", "y_label": f"{self.metrics[0]}, per cent"} for i, method in enumerate(self.methods)]

    def tables(self) -> List[Data]:
        extra = [name for name in ("score", "perplexity", "change", "edit_seconds") if name in self.rows]
        columns = [("method", "text"), ("edits", "number"), *((name, "percent") for name in self.metrics)]
        columns += [(name.replace("_", " "), "percent" if name == "score" else "number") for name in extra] + [("failure", "text")]
        rows = [[method, self.rows["edits"][r], *zip(self.mean[r], self.interval[r]),
                 *(self.rows[name][r] for name in extra), self.rows["failure"][r]] for r, method in enumerate(self.rows["method"])]
        return [table("Methods: means over records, in per cent, with 95 % intervals", columns_of(*columns), rows)]

    def case(self, place: int) -> Tuple[List[Any], Data]:
        values = self.values[:, :, place]
        row = [str(self.case_ids[place]), *(values[last, :self.SHOWN].mean() for last in self.last)]
        columns = columns_of(("method", "text"), *((name, "percent") for name in self.metrics))
        return numbers(row), {"tables": [table("This record", columns, ([name, *row] for name, row in zip(self.names, values)))]}


# --- Others ----------------------------------------------------------------------------------------------------------


class SecondMomentsSection(Section):
    def key_figures(self) -> List[Tuple[str, Any]]:
        return [("documents", self.result.documents), ("tokens", self.result.tokens), ("MLP width", self.result.fields.attribute("mlp_width"))]

    def tables(self) -> List[Data]:
        columns = self.result.table()
        described = columns_of(("layer", "number"), ("module", "text"), ("condition number", "number"), ("dead rows", "number"))
        return [table("Layers", described, zip(*columns.values()))]


class TokensSection(Section):
    def key_figures(self) -> List[Tuple[str, Any]]:
        lengths = self.result.table()["tokens"]
        return [("documents", len(lengths)), ("tokens", int(lengths.sum())), ("vocabulary", self.result.fields.optional("vocabulary")),
                ("longest document", int(lengths.max(initial=0))), ("source", self.result.fields.optional("source_file"))]


class TrainingSection(Section):
    def key_figures(self) -> List[Tuple[str, Any]]:
        return [("steps", self.result.step), ("tokens", self.result.tokens)]


SECTIONS = {"trace": TraceSection, "edits": EditsSection, "eval": EvaluationSection, "comparison": ComparisonSection,
            "second_moments": SecondMomentsSection, "tokens": TokensSection, "training": TrainingSection}


def section_of(result: results.Result) -> Section:
    """What a report shows of a result."""
    return SECTIONS[result.kind](result)
