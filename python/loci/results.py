"""Result files as objects: `loci.open(path)` gives the class of the file's kind.

Nothing is read before a property is used. A property that reads an array reads it again each time. Scores and probabilities lie
between 0 and 1, losses and log probabilities are in nats, times in seconds. Frames need pandas.
"""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Dict, Iterator, List, Optional, Type, Union

import numpy as np

from loci import checksums
from loci.errors import LociError
from loci.fields import Fields, open_file, plain

__all__ = ["Average", "Case", "Comparison", "Edit", "Edits", "Evaluation", "Fact", "Prompt", "Result", "SecondMoments", "Severed",
           "Target", "Tokens", "Trace", "Training", "Update", "open"]

FORMAT = 1
PROVENANCE = ("loci_version", "git_commit", "libraries", "hostname", "date", "world_size", "weights_sha256", "base_edits_sha256")
KINDS = ("state", "mlp", "attn")
SERIES = ("ordinary", "no_mlp", "no_attn")
PROMPT_KINDS = ("rewrite", "paraphrase", "neighborhood", "attribute")
WHEN = ("before", "after")
COMMANDS = {"trace": "trace", "edits": "edit", "comparison": "eval --methods", "eval": "eval", "second_moments": "cov",
            "tokens": "tokenize", "training": "train"}
Columns = Dict[str, Any]


def frame_of(columns: Columns) -> Any:
    """A pandas.DataFrame of columns. LociError: pandas is missing."""
    try:
        import pandas
    except ImportError as error:
        raise LociError("a frame needs pandas, which this Python does not have; install it, or use table()") from error
    return pandas.DataFrame(columns)


class Result:
    """What all kinds of results have in common. Close it, or use it in a `with` statement."""

    kind = ""

    def __init__(self, root: Fields):
        self.fields = root
        self.path = root.path

    def __enter__(self) -> "Result":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<loci.{type(self).__name__} {self.path}>"

    def close(self) -> None:
        """Closes the file. Properties cannot be read afterwards."""
        self.fields.node.file.close()

    @property
    def attributes(self) -> Dict[str, Any]:
        """All attributes of the root."""
        return {name: self.fields.attribute(name) for name in self.fields.attributes()}

    @property
    def config(self) -> Dict[str, Any]:
        """The resolved configuration. Hashes stand for the contents of input files."""
        return self._json("config")

    @property
    def inputs(self) -> Dict[str, Any]:
        """The names of the input files, by option."""
        return self._json("inputs")

    @property
    def provenance(self) -> Dict[str, Any]:
        """What made the file, where and when; the hash of the model's weights."""
        return {name: self.fields.attribute(name) for name in PROVENANCE if name in self.fields.node.attrs}

    @property
    def skipped_records(self) -> List[str]:
        """Why records were left out (--skip-invalid)."""
        return self.fields.texts("skipped_records") if self.fields.has("skipped_records") else []

    def verify(self) -> int:
        """Reads the whole file and compares it with its checksums. Returns the number of objects that were compared, 0 where the
        file holds no checksums. LociError names the first object that differs."""
        return checksums.verify(self.fields)

    def table(self) -> Columns:
        """The columns of frame(): arrays or lists of one length."""
        raise LociError(f"{self.path}: a result of the kind {self.kind} has no table")

    def frame(self) -> Any:
        """table() as a pandas.DataFrame."""
        return frame_of(self.table())

    def _json(self, name: str) -> Dict[str, Any]:
        try:
            return json.loads(self.fields.optional(name, "{}"))
        except ValueError as error:
            raise LociError(f"{self.path}: attribute {name} is not JSON: {error}") from error


def rows_of(items: List[Any], names: List[str]) -> Columns:
    """A column for each name, with the items' attributes of that name; None where an item has none."""
    return {name: [item.fields.optional(name) for item in items] for name in names}


# --- Traces ----------------------------------------------------------------------------------------------------------


class Fact:
    """A fact of a trace. Where the model predicted something else than the expected answer, there are no scores."""

    def __init__(self, name: str, fields: Fields):
        self.name, self.fields = name, fields

    @property
    def prompt(self) -> str:
        return self.fields.attribute("prompt")

    @property
    def subject(self) -> str:
        return self.fields.attribute("subject")

    @property
    def answer(self) -> str:
        """The most likely next token, with its space."""
        return self.fields.attribute("answer")

    @property
    def record(self) -> int:
        """The place in the facts file, from 0."""
        return self.fields.attribute("record")

    @property
    def traced(self) -> bool:
        """Whether the model predicted the expected answer, so that the fact was traced."""
        return bool(self.fields.attribute("correct_prediction"))

    @property
    def subject_range(self) -> List[int]:
        """First token of the subject, and the token after its last one."""
        return self.fields.attribute("subject_range")

    @property
    def high_score(self) -> float:
        """Probability of the answer, nothing corrupted."""
        return self.fields.attribute("high_score")

    @property
    def low_score(self) -> float:
        """Probability of the answer with the subject corrupted and nothing restored, the mean over samples."""
        return self.fields.attribute("low_score")

    @property
    def tokens(self) -> List[str]:
        """The tokens of the prompt, each decoded on its own."""
        return self.fields.texts("input_tokens")

    @property
    def kinds(self) -> List[str]:
        """What was restored: some of state, mlp, attn."""
        return [kind for kind in KINDS if self.fields.has(f"scores_{kind}")]

    def scores(self, kind: str) -> np.ndarray:
        """[tokens, layers]: probability of the answer with this restored. Less low_score it is the indirect effect."""
        return self.fields.array(f"scores_{kind}")

    @property
    def severed(self) -> Dict[str, np.ndarray]:
        """[layers] each: probability of the answer with the state of the subject's last token restored, and nothing (ordinary), the
        MLPs (no_mlp) or attention (no_attn) severed. Empty without --sever."""
        found = {name: self.fields.array(f"severed/{name}") for name in SERIES if self.fields.has(f"severed/{name}")}
        for name, values in found.items():
            if values.ndim != 2:
                raise self.fields.error(f"severed/{name}", f"has {values.ndim} dimensions where 2 are expected")
        return {name: values[0] for name, values in found.items()}


class Average:
    """The averages of one kind over all traced facts. Rows are kinds of tokens."""

    def __init__(self, kind: str, fields: Fields):
        self.kind, self.fields = kind, fields

    @property
    def cases(self) -> int:
        """How many facts."""
        return self.fields.attribute("cases")

    @property
    def rows(self) -> List[str]:
        """The kinds of tokens."""
        return self.fields.texts("row")

    @property
    def row_cases(self) -> np.ndarray:
        """[rows]: facts with such a token."""
        return self.fields.array("row_cases")

    @property
    def indirect_effect(self) -> np.ndarray:
        """[rows, layers]: mean score less mean low score; NaN where no fact has such a token."""
        return self.fields.array("indirect_effect")

    @property
    def confidence(self) -> np.ndarray:
        """[rows, layers]: half width of the 95 % interval."""
        return self.fields.array("confidence")


class Severed:
    """Averages with modules severed at the subject's last token."""

    def __init__(self, fields: Fields):
        self.fields = fields

    @property
    def cases(self) -> int:
        return self.fields.attribute("cases")

    @property
    def effects(self) -> Dict[str, np.ndarray]:
        """[layers] each, by series: mean indirect effect."""
        return {name: self.fields.array(name) for name in SERIES if self.fields.has(name)}

    @property
    def confidence(self) -> Dict[str, np.ndarray]:
        """[layers] each, by series: half width of the 95 % interval."""
        return {name: self.fields.array(f"{name}_confidence") for name in SERIES if self.fields.has(name)}


class Trace(Result):
    """Causal traces (`loci trace`)."""

    kind = "trace"

    @property
    def model_name(self) -> str:
        return self.fields.optional("model_name") or "the model"

    @property
    def window(self) -> int:
        """Layers that mlp and attn restore together."""
        return int(self.fields.optional("window", 0))

    @property
    def noise_level(self) -> float:
        """Standard deviation (or half width) of the noise on the subject's embeddings."""
        return self.fields.attribute("noise_level")

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.fields.array("layer"))

    def __len__(self) -> int:
        return len(self.fields.at("facts").node)

    @property
    def facts(self) -> List[Fact]:
        """All facts, in the order of the facts file."""
        group = self.fields.at("facts")
        return sorted((Fact(name, group.at(name)) for name in group.names()), key=lambda fact: fact.record)

    def fact(self, known_id: Union[int, str]) -> Fact:
        """The fact of this id. LociError: there is none."""
        if not self.fields.at("facts").has(str(known_id)):
            raise LociError(f"{self.path}: there is no fact {known_id}")
        return Fact(str(known_id), self.fields.at(f"facts/{known_id}"))

    @property
    def averages(self) -> Dict[str, Average]:
        """By kind, those over at least one fact."""
        if not self.fields.has("averages"):
            return {}
        found = {kind: Average(kind, self.fields.at(f"averages/{kind}")) for kind in KINDS if self.fields.has(f"averages/{kind}")}
        return {kind: average for kind, average in found.items() if average.cases > 0}

    @property
    def severed(self) -> Optional[Severed]:
        """Averages with severed modules; None without --sever, or where no fact was traced."""
        if not self.fields.has("averages/severed"):
            return None
        severed = Severed(self.fields.at("averages/severed"))
        return severed if severed.cases > 0 else None

    def table(self) -> Columns:
        """A row per fact."""
        return rows_of(self.facts, ["known_id", "subject", "prompt", "answer", "attribute", "correct_prediction", "high_score",
                                    "low_score"])

    def cells(self) -> Columns:
        """A row per fact, kind, token and layer: score, and effect (score less low score)."""
        columns: Columns = {name: [] for name in ("known_id", "kind", "token", "token_text", "layer", "score", "effect")}
        for fact in self.facts:
            tokens = fact.tokens
            for kind in fact.kinds:
                scores = fact.scores(kind)
                count, layers = scores.shape
                columns["known_id"] += [fact.fields.optional("known_id")] * scores.size
                columns["kind"] += [kind] * scores.size
                columns["token"] += np.repeat(np.arange(count), layers).tolist()
                columns["token_text"] += [token for token in tokens for _ in range(layers)]
                columns["layer"] += np.tile(np.arange(layers), count).tolist()
                columns["score"] += scores.ravel().tolist()
                columns["effect"] += (scores.ravel() - fact.low_score).tolist()
        return columns

    def cell_frame(self) -> Any:
        """cells() as a pandas.DataFrame."""
        return frame_of(self.cells())


# --- Edits -----------------------------------------------------------------------------------------------------------


class Edit:
    """A request and what its method recorded. `which` is "new" or "true", `when` "before", "after" or "with_all"."""

    def __init__(self, number: int, fields: Fields):
        self.number, self.fields = number, fields

    @property
    def prompt(self) -> str:
        """With the subject in its place."""
        return self.fields.attribute("prompt").replace("{}", self.subject)

    @property
    def subject(self) -> str:
        return self.fields.attribute("subject")

    def target(self, which: str) -> str:
        """The new or the true target; empty where the request does not name it."""
        return self.fields.optional(f"target_{which}", "").strip()

    @property
    def method(self) -> str:
        return self.fields.attribute("method")

    @property
    def layer(self) -> Optional[int]:
        return self.fields.optional("layer")

    @property
    def took(self) -> Optional[bool]:
        """Whether each token of the new target is the most likely one after the edit; None in files that do not say."""
        took = self.fields.optional("took")
        return None if took is None else bool(took)

    def probability(self, which: str, when: str) -> Optional[float]:
        """Probability of the whole target after the bare prompt; None where it was not measured."""
        return self.fields.optional(f"probability_{which}_{when}")

    def most_likely(self, when: str) -> Optional[str]:
        """The most likely next token after the bare prompt; None where it was not measured."""
        return self.fields.optional(f"most_likely_{when}")

    @property
    def loss_curve(self) -> Dict[str, np.ndarray]:
        """[steps] each: total, target_nll, kl, decay in nats, target_probability. Empty where the method follows no loss."""
        if not self.fields.has("loss_curve"):
            return {}
        curve = self.fields.array("loss_curve")
        names = self.fields.at("loss_curve").attribute("columns")
        columns = {name: curve[:, i] for i, name in enumerate(names)}
        if self.fields.has("target_probability"):
            columns["target_probability"] = self.fields.array("target_probability")
        return columns

    def update(self) -> np.ndarray:
        """[mlp_width, width]: what a rank-one edit adds to the down projection. LociError: the method has another form."""
        return np.outer(self.fields.array("u"), self.fields.array("v"))


class Update:
    """A change of one tensor, or neurons beside an MLP (kind "neurons")."""

    def __init__(self, fields: Fields):
        self.fields = fields

    @property
    def kind(self) -> str:
        return self.fields.optional("kind", "weight")

    @property
    def parameter(self) -> Optional[str]:
        """The tensor as transformers names it; None for neurons."""
        return self.fields.optional("parameter")

    @property
    def layer(self) -> Optional[int]:
        return self.fields.optional("layer")

    @property
    def batch(self) -> Optional[int]:
        """The requests that it was made for together."""
        return self.fields.optional("batch")

    def delta(self) -> np.ndarray:
        """What is added to the tensor as the checkpoint stores it: [rows, columns], and zero in rows that do not change.
        LociError: neurons beside an MLP are not a tensor."""
        if self.fields.has("left"):
            return self.fields.array("left") @ self.fields.array("right").T
        delta = self.fields.array("delta")
        if not self.fields.has("rows"):
            return delta
        whole = np.zeros(self.fields.attribute("shape"), delta.dtype)
        whole[self.fields.array("rows")] = delta
        return whole


class Edits(Result):
    """Edits (`loci edit`), in the order of the requests."""

    kind = "edits"
    MEASURED = [f"{name}_{when}" for name in ("probability_new", "probability_true", "most_likely") for when in ("before", "after")]

    @property
    def mode(self) -> str:
        """independent or sequential."""
        return self.fields.attribute("mode")

    @property
    def context_templates(self) -> List[str]:
        return self.fields.texts("context_templates") if self.fields.has("context_templates") else []

    def __len__(self) -> int:
        return len(self.fields.at("edits").node)

    def __getitem__(self, number: int) -> Edit:
        """Edit `number`, from 0. IndexError: there is none."""
        if not self.fields.has(f"edits/{number}"):
            raise IndexError(f"{self.path}: there is no edit {number}; it holds {len(self)}, numbered from 0")
        return Edit(number, self.fields.at(f"edits/{number}"))

    def __iter__(self) -> Iterator[Edit]:
        return (self[number] for number in range(len(self)))

    @property
    def updates(self) -> List[Update]:
        """The changes of the model in their order; empty for rank-one edits, whose update() is the change."""
        if not self.fields.has("updates"):
            return []
        group = self.fields.at("updates")
        return [Update(group.at(name)) for name in sorted(group.names(), key=int)]

    def table(self) -> Columns:
        """A row per edit."""
        return rows_of(list(self), ["case_id", "prompt", "subject", "target_new", "target_true", "method", "layer", "took", *self.MEASURED,
                                    "update_norm", "seconds"])


def rows_with(column: np.ndarray, value: int) -> range:
    """The rows that hold this value, of a column that never falls."""
    return range(int(np.searchsorted(column, value)), int(np.searchsorted(column, value, side="right")))


# --- Evaluations -----------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """A continuation that was scored after a prompt. What was not measured is None."""

    text: str
    before: Optional[float]
    """exp(-mean NLL of its tokens), unedited model: the geometric mean of the tokens' probabilities."""
    after: Optional[float]
    said_before: Optional[float]
    """Share of its tokens that are the most likely ones."""
    said_after: Optional[float]


@dataclass
class Prompt:
    """A prompt of a record. kind: rewrite, paraphrase, neighborhood or attribute."""

    kind: str
    text: str
    targets: List[Target]


@dataclass
class Case:
    """A record of an evaluation."""

    case_id: int
    request: Dict[str, Any]
    prompts: List[Prompt]

    @property
    def prompt(self) -> str:
        """What was edited, with the subject in its place."""
        return self.request.get("prompt", "").replace("{}", self.request.get("subject", ""))

    def target(self, which: str) -> str:
        """The new or the true target of the request; empty where it names none."""
        target = self.request.get(f"target_{which}") or ""
        return (target.get("str", "") if isinstance(target, dict) else str(target)).strip()


class Evaluation(Result):
    """Records that were scored (`loci eval`): flat tables, each with a column that holds the row of the table above it."""

    kind = "eval"
    TABLES = ("records", "prompts", "targets", "tokens", "summary")

    @property
    def dataset(self) -> str:
        """counterfact or zsre."""
        return self.fields.attribute("dataset")

    @property
    def model_name(self) -> str:
        return self.fields.optional("model_name") or "the model"

    @property
    def edited(self) -> bool:
        """Whether records were scored after an edit too."""
        return self.fields.has("targets/nll_after")

    def __len__(self) -> int:
        return len(self.fields.array("records/case_id"))

    def columns(self, table: str) -> Columns:
        """A table as {column: values}: records, prompts, targets, tokens or summary. LociError: there is no such table."""
        if table not in self.TABLES:
            raise LociError(f"{self.path}: there is no table {table}; there are {', '.join(self.TABLES)}")
        return self.fields.columns(table)

    def case(self, row: int) -> Case:
        """A record with its prompts and their targets; the tables are read once. IndexError: there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(f"{self.path}: there is no record {row}; it holds {len(self)}, numbered from 0")
        records, prompts = self._tables["records"], self._tables["prompts"]
        return Case(int(records["case_id"][row]), json.loads(records["request"][row]),
                    [Prompt(PROMPT_KINDS[prompts["kind"][i]], prompts["text"][i], self._targets(i)) for i in rows_with(prompts["record"], row)])

    @cached_property
    def _tables(self) -> Dict[str, Columns]:
        return {name: self.columns(name) for name in ("records", "prompts", "targets", "tokens")}

    def _targets(self, prompt: int) -> List[Target]:
        targets, tokens = self._tables["targets"], self._tables["tokens"]
        found = []
        for i in rows_with(targets["prompt"], prompt):
            of_target = rows_with(tokens["target"], i)
            probability, said = ([float(np.exp(-targets[f"nll_{when}"][i])) if f"nll_{when}" in targets else None for when in WHEN],
                                 [float(np.mean(tokens[f"best_{when}"][of_target] == tokens["id"][of_target]))
                                  if f"best_{when}" in tokens else None for when in WHEN])
            found.append(Target(targets["text"][i], probability[0], probability[1], said[0], said[1]))
        return found

    def table(self) -> Columns:
        """The summary: a row per metric."""
        return self.columns("summary")

    def frame(self, table: str = "summary") -> Any:
        """One of the tables as a pandas.DataFrame."""
        return frame_of(self.columns(table))


# --- Comparisons -----------------------------------------------------------------------------------------------------


class Comparison(Result):
    """Methods compared after numbers of edits (`loci eval --methods`). Row 0 is the unedited model."""

    kind = "comparison"

    @property
    def methods(self) -> List[str]:
        return self.fields.texts("methods")

    @property
    def edits_at(self) -> np.ndarray:
        """[points]: numbers of edits."""
        return self.fields.array("edits_at")

    @property
    def metrics(self) -> List[str]:
        """Names, such as ES."""
        return self.fields.texts("metrics/name")

    @property
    def rows(self) -> Columns:
        """{column: values}: method, edits, failure, score, perplexity, ... A number that does not exist is NaN."""
        return self.fields.columns("rows")

    @property
    def mean(self) -> np.ndarray:
        """[rows, metrics]: mean over records."""
        return self.fields.array("mean")

    @property
    def interval(self) -> np.ndarray:
        """[rows, metrics]: half width of the 95 % interval."""
        return self.fields.array("interval")

    @property
    def values(self) -> np.ndarray:
        """[rows, metrics, records]: each record's mean over its prompts; NaN where it was not scored."""
        return self.fields.array("values")

    @property
    def retention(self) -> Optional[np.ndarray]:
        """[methods, points, points]: efficacy at each point of each group of edits; None unless the mode is sequential."""
        return self.fields.array("retention") if self.fields.has("retention") else None

    @property
    def case_ids(self) -> np.ndarray:
        """[records]"""
        return self.fields.array("records/case_id")

    @property
    def about(self) -> str:
        """Model, data set, mode and number of records, in words."""
        name, dataset, mode = map(self.fields.attribute, ("model_name", "dataset", "mode"))
        return f"{name}, {dataset}, {mode} edits, {len(self.case_ids)} records"

    def table(self) -> Columns:
        """A row per method and number of edits: the columns of rows, then the mean and the interval of each metric."""
        columns, mean, interval = self.rows, self.mean, self.interval
        for i, name in enumerate(self.metrics):
            columns[name], columns[f"{name}_interval"] = mean[:, i], interval[:, i]
        return columns


# --- Second moments, tokens, trainings -------------------------------------------------------------------------------


class SecondMoments(Result):
    """Second moments of keys (`loci cov`)."""

    kind = "second_moments"

    @property
    def layers(self) -> List[int]:
        return sorted(int(name) for name in self.fields.at("layers").names())

    @property
    def tokens(self) -> int:
        """Tokens that were summed over."""
        return self.fields.attribute("tokens")

    @property
    def documents(self) -> int:
        return self.fields.attribute("documents")

    def sum(self, layer: int) -> np.ndarray:
        """[mlp_width, mlp_width]: the sum of k kᵀ over all tokens."""
        return self._layer(layer).array("sum")

    def mean(self, layer: int) -> np.ndarray:
        """[mlp_width, mlp_width]: C, the mean of k kᵀ."""
        return self.sum(layer) / self.tokens

    def dead_rows(self, layer: int) -> np.ndarray:
        """Neurons that were never active."""
        return self._layer(layer).array("dead_rows")

    def condition_number(self, layer: int) -> float:
        return self._layer(layer).attribute("condition_number")

    def module(self, layer: int) -> str:
        """The edited module, as transformers names it."""
        return self._layer(layer).attribute("module")

    def eigenvalues(self, layer: int) -> np.ndarray:
        """[mlp_width], of C. LociError without --eigenvectors."""
        return self._layer(layer).array("eigenvalues")

    def eigenvectors(self, layer: int) -> np.ndarray:
        """[mlp_width, mlp_width], in columns. LociError without --eigenvectors."""
        return self._layer(layer).array("eigenvectors")

    def table(self) -> Columns:
        """A row per layer."""
        layers = self.layers
        return {"layer": layers, "module": [self.module(n) for n in layers],
                "condition_number": [self.condition_number(n) for n in layers], "dead_rows": [len(self.dead_rows(n)) for n in layers]}

    def _layer(self, layer: int) -> Fields:
        return self.fields.at(f"layers/{layer}")


class Tokens(Result):
    """A token stream (`loci tokenize`)."""

    kind = "tokens"

    @property
    def document_offsets(self) -> np.ndarray:
        """[documents + 1]: first token of each document, and the number of tokens."""
        return self.fields.array("document_offsets")

    @property
    def tokens(self) -> np.ndarray:
        """[tokens] int32: all documents, one after the other."""
        return self.fields.array("tokens")

    def __len__(self) -> int:
        return self.fields.at("document_offsets").node.shape[0] - 1

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document; only these are read. IndexError: there is no such document."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path}: there is no document {number}; it holds {len(self)}, numbered from 0")
        begin, end = self.fields.array("document_offsets", slice(number, number + 2))
        return self.fields.array("tokens", slice(int(begin), int(end)))

    def table(self) -> Columns:
        """A row per document."""
        offsets = self.document_offsets
        return {"first_token": offsets[:-1], "tokens": np.diff(offsets)}


class Training(Result):
    """The state that `loci train` continues from (training.h5)."""

    kind = "training"

    @property
    def step(self) -> int:
        """Steps that were made."""
        return self.fields.attribute("step")

    @property
    def tokens(self) -> int:
        """Tokens that were trained on."""
        return self.fields.attribute("tokens")

    @property
    def config(self) -> Dict[str, Any]:
        """What identifies the training."""
        return self._json("identity")


CLASSES: Dict[str, Type[Result]] = {c.kind: c for c in (Trace, Edits, Evaluation, Comparison, SecondMoments, Tokens, Training)}


def open(path: Union[str, "os.PathLike[str]"], kind: Optional[str] = None) -> Any:  # noqa: A001 (loci.open, as gzip.open)
    """The result file at `path`, as the class of its kind: Trace, Edits, Evaluation, Comparison, SecondMoments, Tokens or Training.

    kind: what the file must be, as its attribute `kind` says it ("trace", "edits", "eval", ...). LociError: the file cannot be read,
    is not a result of loci, is of another kind, or was written by a newer loci.
    """
    path = os.fspath(path)
    file = open_file(path)
    found = plain(file.attrs.get("kind"))
    if kind is not None and found != kind:
        file.close()
        raise LociError(f"{path}: is not a result file of loci {COMMANDS.get(kind, kind)}")
    if found not in CLASSES:
        file.close()
        raise LociError(f"{path}: is not a result file of loci: its attribute kind is {'missing' if found is None else repr(found)}")
    written = plain(file.attrs.get("format", FORMAT))
    if isinstance(written, int) and written > FORMAT:
        file.close()
        raise LociError(f"{path}: was written by a newer loci (its format is {written}, this package reads formats up to {FORMAT})")
    return CLASSES[found](Fields(path, file))
