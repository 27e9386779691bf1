#!/usr/bin/python3
"""Draws the edits in a result file of `loci edit`.

    plot_edit.py EDITS.h5 --output DIR [--edits 0,2 | --edits all | --first N] [--format png|pdf|svg]

before_after: how probable the new and the old target are after each edit's bare prompt, before the edit and after it. loss_{j}:
the loss while the value v* of edit j was optimised, its parts, and the probability of the new target.
"""
import argparse
import sys

from plotting import Figures, fail, find_fonts, fit, label, make_folder, open_result, plt, set_title
import matplotlib.ticker
import numpy as np

TARGETS = (("new", "#c8e6c9", "#20902c"), ("true", "#d5cdea", "#5b4a9b"))  # light before the edit, dark after it
# The total first and wide, so that it shows beneath its parts.
PARTS = (("total", "#b0b0b0", "-", 3), ("target_nll", "#20902c", "--", 1.4), ("kl", "#5b4a9b", ":", 1.4), ("decay", "#d07000", "-.", 1.4))
WORDS = {"total": "total", "target_nll": "target: -log p", "kl": "KL divergence of the essence", "decay": "weight decay"}


def bare_prompt(edit):
    return edit.attrs["prompt"].replace("{}", edit.attrs["subject"])


def target_text(edit, which):
    return edit.attrs[f"target_{which}"].strip()


def bars_of(edit):
    """(label, probability, colour) of an edit, from top to bottom."""
    for which, before, after in TARGETS:
        if f"probability_{which}_before" not in edit.attrs:
            continue
        name = label(target_text(edit, which), 24)
        yield f"{name}, before", edit.attrs[f"probability_{which}_before"], before
        yield f"{name}, after", edit.attrs[f"probability_{which}_after"], after


def draw_before_after(edits):
    bars, places, y = [], [], 0.0
    headings = []
    figure, axes = plt.subplots(figsize=(5.2, 1), dpi=200, layout="constrained")
    for name, edit in edits:
        lines = fit(figure, f"edit {name}: \u201c{bare_prompt(edit)}\u201d", 7, 3.4, most_lines=3)
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


def draw_loss(name, edit):
    curve = edit["loss_curve"][:]
    columns = [c.decode() if isinstance(c, bytes) else str(c) for c in edit["loss_curve"].attrs["columns"]]
    steps = np.arange(len(curve))
    figure, (losses, probability) = plt.subplots(1, 2, figsize=(6.6, 2.3), dpi=200, layout="constrained")
    for part, colour, dashes, width in PARTS:
        if part in columns:
            losses.plot(steps, curve[:, columns.index(part)], color=colour, linestyle=dashes, linewidth=width, label=WORDS[part],
                        marker="." if len(curve) < 3 else None)
    losses.set_ylabel("loss (nats)")
    losses.legend()
    values = curve[:, columns.index("target_probability")] if "target_probability" in columns else edit.get("target_probability")
    if values is not None:
        probability.plot(steps, values[:], color="#20902c", marker=".", markersize=3)
    probability.set_ylim(-0.02, 1.02)
    probability.set_ylabel(f"mean p({label(target_text(edit, 'new'), 24)})")
    for axes in (losses, probability):
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    set_title(figure, [f"edit {name}: \u201c{bare_prompt(edit)}\u201d \u2192 \u201c{target_text(edit, 'new')}\u201d",
                       f"optimisation of v* at layer {edit.attrs['layer']}, over all context templates"])
    return figure


def chosen_edits(file, arguments):
    names = sorted(file["edits"], key=int)
    if arguments.edits:
        wanted = names if arguments.edits == "all" else arguments.edits.split(",")
        for name in wanted:
            if name not in names:
                fail(f"{arguments.file}: there is no edit {name}; it holds {len(names)}, numbered from 0")
    else:
        wanted = names[: arguments.first]
    if not wanted:
        fail(f"{arguments.file}: there is nothing to draw: no edit is in it, or none was asked for", 7)
    return [(name, file["edits"][name]) for name in wanted]


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


def main():
    arguments = read_arguments()
    with open_result(arguments.file, "edits") as file:
        edits = chosen_edits(file, arguments)
        make_folder(arguments.output)
        find_fonts(text for _, edit in edits for text in (bare_prompt(edit), target_text(edit, "new"), target_text(edit, "true")))
        figures = Figures(arguments.output, arguments.format)
        with figures.one("before_after") as save:
            if not any("probability_new_before" in edit.attrs for _, edit in edits):
                raise ValueError("the edits hold no probabilities before and after; make them again with this version of loci")
            save(draw_before_after(edits))
        for name, edit in edits:
            with figures.one(f"loss_{name}") as save:
                save(draw_loss(name, edit))
        return figures.exit_code()


if __name__ == "__main__":
    sys.exit(main())
