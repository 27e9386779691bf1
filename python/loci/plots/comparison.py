"""Draws a comparison of methods, a result file of `loci eval --methods`.

    plot_comparison.py COMPARISON.h5 --output DIR [--format png|pdf|svg]

comparison: efficacy, paraphrase, neighbourhood and, where a text was given, its perplexity, over the number of edits; one line per
method, the unedited model as a dotted line. Bands are 95 % confidence intervals. retention, of a comparison in sequence: how much of
each group of edits is left after all later ones. A method that failed has no point there.
"""
import argparse

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from loci import results
from loci.errors import LociError
from loci.plots.common import Figures, choose_fonts, complain, draw_file, drawn, label, make_folder, plt, set_title, style, subplots

__all__ = ["methods", "retention"]

# Colours that the colour-blind tell apart (Okabe and Ito), and marks for prints without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999900")
MARKS = "os^Dv<>Xp*hP"
PANELS = ("efficacy", "paraphrase", "neighbourhood")


def mark(number):
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)], "markersize": 3.5, "linewidth": 1.2}


def use_edits(axes, points):
    """A logarithmic axis with the numbers of edits as its ticks."""
    if len(points) > 1 and points[-1] >= 10 * points[0]:
        axes.set_xscale("log")
    axes.set_xticks(points, [str(n) for n in points])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel("edits")


def panels_and_legend(count):
    """Panels side by side, and a place for their legend."""
    return subplots(1, count + 1, figsize=(2.3 * count + 1.1, 2.3), gridspec_kw={"width_ratios": [1] * count + [0.45]})


def add_legend(all_axes):
    all_axes[-1].axis("off")
    all_axes[-1].legend(*all_axes[0].get_legend_handles_labels(), loc="center left", borderaxespad=0)


def draw_panel(axes, result, name, values, intervals):
    if np.isfinite(values[0]):
        axes.axhline(values[0], color="grey", linewidth=0.8, linestyle=":", label="unedited")
    rows, points = result.rows, result.edits_at
    for number, method in enumerate(result.methods):
        of_method = [row for row, row_method in enumerate(rows["method"]) if row_method == method]
        edits, found = rows["edits"][of_method], values[of_method]
        axes.plot(edits, found, label=label(method), **mark(number))
        if intervals is not None:
            spread = intervals[of_method]
            axes.fill_between(edits, found - spread, found + spread, color=mark(number)["color"], alpha=0.15, linewidth=0)
    use_edits(axes, points)
    axes.set_title(name)


def draw_comparison(result):
    perplexity, mean, interval, metrics = result.rows["perplexity"], result.mean, result.interval, result.metrics
    found = perplexity[np.isfinite(perplexity)]
    panels = len(PANELS) + (len(found) > 0)
    figure, all_axes = panels_and_legend(panels)
    for k, name in enumerate(PANELS):
        draw_panel(all_axes[k], result, f"{name} ({metrics[k]})", 100 * mean[:, k], 100 * interval[:, k])
        all_axes[k].set_ylim(-3, 103)
    all_axes[0].set_ylabel("per cent of records")
    if len(found) > 0:
        draw_panel(all_axes[panels - 1], result, "perplexity", perplexity, None)
        if found.max() > 10 * found.min():
            all_axes[panels - 1].set_yscale("log")
    add_legend(all_axes)
    set_title(figure, [result.about])
    return figure


def draw_retention(result):
    """One panel per method: a line per group of edits, from the point where it was made on."""
    methods, points = result.methods, result.edits_at
    figure, all_axes = panels_and_legend(len(methods))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(points)))
    for axes, method, table in zip(all_axes, methods, result.retention):
        first = 1
        for group, last in enumerate(points):
            axes.plot(points[group:], 100 * table[group:, group], color=colours[group], marker=".", linewidth=1.2,
                      label=f"edits {first} to {last}")
            first = last + 1
        axes.set_ylim(-3, 103)
        axes.set_title(label(method))
        use_edits(axes, points)
    all_axes[0].set_ylabel(f"{result.metrics[0]}, per cent")
    add_legend(all_axes)
    set_title(figure, [f"What later edits leave of earlier ones: {result.about}"])
    return figure


def texts(result):
    """All that may be written on a figure."""
    return [result.about, *result.methods]


def methods(result: results.Comparison) -> Figure:
    """A figure with efficacy, paraphrase, neighbourhood and, where it was measured, perplexity over the number of edits: a line per
    method with 95 % intervals, the unedited model as a dotted line. LociError: every method failed."""
    require_numbers(result)
    with style(texts(result)):
        return drawn(draw_comparison(result))


def retention(result: results.Comparison) -> Figure:
    """A figure with how much of each group of edits is left after all later ones. LociError: edits were not made in sequence."""
    require_numbers(result)
    if result.retention is None:
        raise LociError(f"{result.path}: holds no retention; compare with --sequential")
    with style(texts(result)):
        return drawn(draw_retention(result))


def require_numbers(result):
    if all(result.rows["failure"][1:]):
        raise LociError(f"{result.path}: there is nothing to draw: every method failed", 7)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="COMPARISON.h5")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    return parser.parse_args()


def draw_all(result, arguments):
    rows = result.rows
    for method, edits, failure in zip(rows["method"], rows["edits"], rows["failure"]):
        if failure:
            complain(f"{method} has no point at {edits} edits, where it failed: {failure}")
    require_numbers(result)
    make_folder(arguments.output)
    choose_fonts(texts(result))
    figures = Figures(arguments.output, arguments.format)
    with figures.one("comparison") as save:
        save(draw_comparison(result))
    if result.retention is not None:
        with figures.one("retention") as save:
            save(draw_retention(result))
    return figures.exit_code()


def main():
    """The command plot_comparison.py. Returns its exit code."""
    arguments = read_arguments()
    return draw_file(arguments.file, "comparison", lambda result: draw_all(result, arguments))
