#!/usr/bin/python3
"""Draws a comparison of methods, a result file of `loci eval --methods`.

    plot_comparison.py COMPARISON.h5 --output DIR [--format png|pdf|svg]

comparison: efficacy, paraphrase, neighbourhood and, where a text was given, its perplexity, over the number of edits; one line per
method, the unedited model as a dotted line. Bands are 95 % confidence intervals. retention, of a comparison in sequence: how much of
each group of edits is left after all later ones. A method that failed has no point there.
"""
import argparse
import sys

from plotting import Figures, complain, fail, find_fonts, label, make_folder, open_result, plt, set_title
import matplotlib.ticker
import numpy as np

# Colours that the colour-blind tell apart (Okabe and Ito), and marks for prints without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999900")
MARKS = "os^Dv<>Xp*hP"
PANELS = ("efficacy", "paraphrase", "neighbourhood")


def texts(dataset):
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]]


class Comparison:
    def __init__(self, file):
        self.methods, self.points = texts(file["methods"]), file["edits_at"][:]
        self.metrics = texts(file["metrics/name"])
        self.rows, self.failures = texts(file["rows/method"]), texts(file["rows/failure"])
        self.edits, self.perplexity = file["rows/edits"][:], file["rows/perplexity"][:]
        self.mean, self.interval = file["mean"][:], file["interval"][:]
        self.retention = file["retention"][:] if "retention" in file else None
        self.about = f"{file.attrs['model_name']}, {file.attrs['dataset']}, {file.attrs['mode']} edits, {len(file['records/case_id'])} records"

    def of(self, method):
        return [row for row, name in enumerate(self.rows) if name == method]

    def has_perplexity(self):
        return bool(np.isfinite(self.perplexity).any())


def style(number):
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
    return plt.subplots(1, count + 1, figsize=(2.3 * count + 1.1, 2.3), dpi=200, layout="constrained",
                        gridspec_kw={"width_ratios": [1] * count + [0.45]})


def add_legend(all_axes):
    all_axes[-1].axis("off")
    all_axes[-1].legend(*all_axes[0].get_legend_handles_labels(), loc="center left", borderaxespad=0)


def draw_panel(axes, comparison, name, values, intervals):
    if np.isfinite(values[0]):
        axes.axhline(values[0], color="grey", linewidth=0.8, linestyle=":", label="unedited")
    for number, method in enumerate(comparison.methods):
        rows = comparison.of(method)
        edits, found = comparison.edits[rows], values[rows]
        axes.plot(edits, found, label=label(method), **style(number))
        if intervals is not None:
            spread = intervals[rows]
            axes.fill_between(edits, found - spread, found + spread, color=style(number)["color"], alpha=0.15, linewidth=0)
    use_edits(axes, comparison.points)
    axes.set_title(name)


def draw_comparison(comparison):
    panels = len(PANELS) + comparison.has_perplexity()
    figure, all_axes = panels_and_legend(panels)
    for k, name in enumerate(PANELS):
        draw_panel(all_axes[k], comparison, f"{name} ({comparison.metrics[k]})", 100 * comparison.mean[:, k], 100 * comparison.interval[:, k])
        all_axes[k].set_ylim(-3, 103)
    all_axes[0].set_ylabel("per cent of records")
    if comparison.has_perplexity():
        draw_panel(all_axes[panels - 1], comparison, "perplexity", comparison.perplexity, None)
        found = comparison.perplexity[np.isfinite(comparison.perplexity)]
        if found.max() > 10 * found.min():
            all_axes[panels - 1].set_yscale("log")
    add_legend(all_axes)
    set_title(figure, [comparison.about])
    return figure


def draw_retention(comparison):
    """One panel per method: a line per group of edits, from the point where it was made on."""
    count = len(comparison.methods)
    figure, all_axes = panels_and_legend(count)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(comparison.points)))
    for axes, method, table in zip(all_axes, comparison.methods, comparison.retention):
        first = 1
        for group, last in enumerate(comparison.points):
            axes.plot(comparison.points[group:], 100 * table[group:, group], color=colours[group], marker=".", linewidth=1.2,
                      label=f"edits {first} to {last}")
            first = last + 1
        axes.set_ylim(-3, 103)
        axes.set_title(label(method))
        use_edits(axes, comparison.points)
    all_axes[0].set_ylabel(f"{comparison.metrics[0]}, per cent")
    add_legend(all_axes)
    set_title(figure, [f"What later edits leave of earlier ones: {comparison.about}"])
    return figure


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="COMPARISON.h5")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    with open_result(arguments.file, "comparison") as file:
        comparison = Comparison(file)
    for method, edits, failure in zip(comparison.rows, comparison.edits, comparison.failures):
        if failure:
            complain(f"{method} has no point at {edits} edits, where it failed: {failure}")
    if all(comparison.failures[1:]):
        fail(f"{arguments.file}: there is nothing to draw: every method failed", 7)
    make_folder(arguments.output)
    find_fonts([comparison.about, *comparison.methods])
    figures = Figures(arguments.output, arguments.format)
    with figures.one("comparison") as save:
        save(draw_comparison(comparison))
    if comparison.retention is not None:
        with figures.one("retention") as save:
            save(draw_retention(comparison))
    return figures.exit_code()


if __name__ == "__main__":
    sys.exit(main())
