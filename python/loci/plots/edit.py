"""Draws the edits in a result file of `loci edit`.

    plot_edit.py EDITS.h5 --output DIR [--edits 0,2 | --edits all | --first N] [--format png|pdf|svg]

before_after: how probable the new and the old target are after each edit's bare prompt, before the edit and after it. loss_{j}:
the loss while the value v* of edit j was optimised, its parts, and the probability of the new target.
"""
import argparse
from typing import Iterable

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from loci import results
from loci.errors import LociError
from loci.plots.common import Figures, choose_fonts, draw_file, drawn, fit, label, make_folder, set_title, style, subplots

__all__ = ["before_after", "loss"]

TARGETS = (("new", "#c8e6c9", "#20902c"), ("true", "#d5cdea", "#5b4a9b"))  # light before the edit, dark after it
# The total first and wide, so that it shows beneath its parts.
PARTS = (("total", "#b0b0b0", "-", 3), ("target_nll", "#20902c", "--", 1.4), ("kl", "#5b4a9b", ":", 1.4), ("decay", "#d07000", "-.", 1.4))
WORDS = {"total": "total", "target_nll": "target: -log p", "kl": "KL divergence of the essence", "decay": "weight decay"}


def bars_of(edit):
    """(label, probability, colour) of an edit, from top to bottom."""
    for which, before, after in TARGETS:
        if edit.probability(which, "before") is None:
            continue
        name = label(edit.target(which), 24)
        yield f"{name}, before", edit.probability(which, "before"), before
        yield f"{name}, after", edit.probability(which, "after"), after


def draw_before_after(edits):
    bars, places, y = [], [], 0.0
    headings = []
    figure, axes = subplots(figsize=(5.2, 1))
    for edit in edits:
        lines = fit(figure, f"edit {edit.number}: \u201c{edit.prompt}\u201d", 7, 3.4, most_lines=3)
        y += 1.1 * len(lines)
        headings.append((y - 0.7, "\n".join(lines)))
        for bar in bars_of(edit):
            bars.append(bar)
            places.append(y)
            y += 1
        y += 0.4
    figure.set_size_inches(5.2, 0.6 + 0.17 * y)
    axes.barh(places, [p for _, p, _ in bars], height=0.8, color=[c for _, _, c in bars], edgecolor="#404040", linewidth=0.4)
    for place, (_, probability, _) in zip(places, bars):
        axes.text(probability + 0.01, place, f"{probability:.3f}" if probability >= 0.001 else f"{probability:.1e}", va="center", fontsize=6)
    for place, text in headings:
        axes.text(0.01, place, text, va="bottom", fontsize=7)
    axes.set_yticks(places, [text for text, _, _ in bars])
    axes.set_ylim(y, -0.2)
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("probability after the bare prompt")
    set_title(figure, ["What the model says before and after each edit" if len(edits) > 1 else "What the model says before and after the edit"])
    return figure


def draw_loss(edit):
    curve = edit.loss_curve
    if not curve:
        raise LociError(f"edit {edit.number}: its method follows no loss")
    figure, (losses, probability) = subplots(1, 2, figsize=(6.6, 2.3))
    for part, colour, dashes, width in PARTS:
        if part in curve:
            losses.plot(curve[part], color=colour, linestyle=dashes, linewidth=width, label=WORDS[part],
                        marker="." if len(curve[part]) < 3 else None)
    losses.set_ylabel("loss (nats)")
    losses.legend()
    if "target_probability" in curve:
        probability.plot(curve["target_probability"], color="#20902c", marker=".", markersize=3)
    probability.set_ylim(-0.02, 1.02)
    probability.set_ylabel(f"mean p({label(edit.target('new'), 24)})")
    for axes in (losses, probability):
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    set_title(figure, [f"edit {edit.number}: \u201c{edit.prompt}\u201d \u2192 \u201c{edit.target('new')}\u201d",
                       f"optimisation of v* at layer {edit.layer}, over all context templates"])
    return figure


def texts(edits):
    """All that may be written on a figure."""
    return (text for edit in edits for text in (edit.prompt, edit.target("new"), edit.target("true")))


def require_measured(edits):
    if all(edit.probability("new", "before") is None for edit in edits):
        raise LociError("the edits hold no probabilities before and after; make them again with this version of loci")


def before_after(edits: Iterable[results.Edit]) -> Figure:
    """A figure with bars: how probable the new and the true target of each edit are before and after it.

    edits: a result of `loci edit`, or a list of its edits. LociError: they hold no probabilities.
    """
    edits = list(edits)
    require_measured(edits)
    with style(texts(edits)):
        return drawn(draw_before_after(edits))


def loss(edit: results.Edit) -> Figure:
    """A figure with the loss of an edit while v* was optimised, its parts, and the probability of the new target, by step. LociError:
    the method follows no loss."""
    with style(texts([edit])):
        return drawn(draw_loss(edit))


def chosen_edits(result, arguments):
    everything = list(result)
    if not arguments.edits:
        wanted = everything[: arguments.first]
    elif arguments.edits == "all":
        wanted = everything
    else:
        try:
            wanted = [result[name] for name in arguments.edits.split(",")]
        except IndexError as error:
            raise LociError(str(error)) from error
    if not wanted:
        raise LociError(f"{arguments.file}: there is nothing to draw: no edit is in it, or none was asked for", 7)
    return wanted


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="EDITS.h5")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--edits", default="", metavar="NUMBERS", help="numbers from 0 with commas between, or all")
    parser.add_argument("--first", type=int, default=8, metavar="N", help="without --edits: how many edits to draw (default 8)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    arguments = parser.parse_args()
    if arguments.first < 0:
        parser.error(f"--first {arguments.first}: must be 0 or more")
    return arguments


def draw_all(result, arguments):
    edits = chosen_edits(result, arguments)
    make_folder(arguments.output)
    choose_fonts(texts(edits))
    figures = Figures(arguments.output, arguments.format)
    with figures.one("before_after") as save:
        require_measured(edits)
        save(draw_before_after(edits))
    for edit in edits:
        with figures.one(f"loss_{edit.number}") as save:
            save(draw_loss(edit))
    return figures.exit_code()


def main():
    """The command plot_edit.py. Returns its exit code."""
    arguments = read_arguments()
    return draw_file(arguments.file, "edits", lambda result: draw_all(result, arguments))
