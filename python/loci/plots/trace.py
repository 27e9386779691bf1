"""Draws the traces in a result file of `loci trace`.

    plot_trace.py TRACE.h5 --output DIR [--facts 0,12,16 | --facts all | --first N] [--format png|pdf|svg] [--shared-scale]
    plot_trace.py TRACE.h5 --figure FILE.png|svg|pdf

In a folder: heat maps of single facts (heatmap_{id}[_mlp|_attn]) and of the averages (average[_mlp|_attn]), averaged indirect
effects as lines with 95 % intervals (average_lines), and, where modules were severed, their effects by layer (severed,
severed_{id}). As one figure: the heat maps of all kinds side by side, of the fact where the file holds one, else of the averages.
"""
import argparse
import os
from typing import Optional

import matplotlib.colors
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from loci import results
from loci.errors import LociError
from loci.plots.common import Figures, choose_fonts, draw_file, drawn, fail, label, make_folder, plt, set_title, style, subplots

__all__ = ["average_lines", "heat_maps", "severed"]

COLOURS = {"state": "Purples", "mlp": "Greens", "attn": "Reds"}
MODULES = {"mlp": "MLP outputs", "attn": "attention outputs"}
AIE = "AIE on p(answer)"
# Of a line: colour of the ten-colour cycle, width, dashes. Where lines lie on each other, the wide ones show beneath.
ROWS = ((0, 3.2, "-"), (1, 2.6, (0, (6, 2))), (2, 2.2, "-"), (4, 1.8, (0, (4, 2))), (5, 1.5, (0, (1, 1.2))), (3, 1.1, "-"))
SERIES = (("ordinary", "#7261ab", "-", "nothing severed"), ("no_attn", "#f3201b", "--", "attention severed"),
          ("no_mlp", "#20b020", ":", "MLPs severed"))
MOST_BARS = 16  # layers; more are drawn as lines
NOTHING_TO_DRAW = 7


def suffix(kind):
    return "" if kind == "state" else f"_{kind}"


def plural(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Drawing:
    """A trace and how figures call its model."""

    def __init__(self, trace, model_name=None):
        self.trace, self.model = trace, model_name or trace.model_name
        self.window, self.layers, self.averages = trace.window, trace.layers, trace.averages
        self.all_facts = trace.facts
        self.facts = [fact for fact in self.all_facts if fact.traced]

    def restored(self, kind):
        """What was restored, in words."""
        return "one hidden state" if kind == "state" else f"{MODULES[kind]} {self.window_of_layers()}"

    def window_of_layers(self):
        whole = f" (the model has {self.layers})" if self.window >= self.layers else ""
        return f"of {plural(self.window, 'layer')}{whole}"

    def axis(self, kind):
        return f"{'' if kind == 'state' else 'central '}layer of {label(self.model)}"

    def cases(self):
        return f"n = {plural(next(iter(self.averages.values())).cases, 'fact')}"

    def texts(self, facts):
        """All that may be written on a figure."""
        yield self.model
        for fact in facts:
            yield from (fact.prompt, fact.answer, *fact.tokens)


def heading(fact):
    return f"\u201c{fact.prompt}\u201d \u2192 \u201c{fact.answer.strip()}\u201d"


# --- Heat maps -------------------------------------------------------------------------------------------------------


class Scale:
    """From the lowest to the highest value; white where nothing changes, grey below."""

    def __init__(self, values, nothing):
        self.nothing = nothing
        self.bottom = min(nothing, *(float(np.nanmin(v)) for v in values))
        self.top = max(nothing + 1e-9, *(float(np.nanmax(v)) for v in values))

    def colours(self, kind):
        steps = self.bottom + (np.arange(256) + 0.5) / 256 * (self.top - self.bottom) - self.nothing
        steps /= max(self.top - self.nothing, self.nothing - self.bottom)
        return matplotlib.colors.ListedColormap(np.where(steps[:, None] >= 0, shades(COLOURS[kind], steps), shades("Greys", -0.7 * steps)))


def shades(colours, steps):
    """White at 0, whatever the colours begin with."""
    colours = plt.get_cmap(colours)(np.clip(steps, 0, 1))
    return colours + (1 - colours) * np.clip(1 - steps[:, None] / 0.1, 0, 1)


def layer_ticks(axes, layers):
    step = max(1, layers // 9 if layers < 20 else 5)
    ticks = list(range(0, layers, step))
    axes.set_xticks([t + 0.5 for t in ticks])
    axes.set_xticklabels(ticks)


def draw_heat_map(axes, values, labels, kind, scale):
    """First row on top. `labels` may be empty: those of the panel beside."""
    mesh = axes.pcolormesh(values, cmap=scale.colours(kind), vmin=scale.bottom, vmax=scale.top)
    axes.invert_yaxis()
    axes.set_yticks([0.5 + i for i in range(len(labels))], labels)
    layer_ticks(axes, values.shape[1])
    height = map_height(len(values))
    bar = axes.figure.colorbar(mesh, ax=axes, shrink=min(1, 3 / height), aspect=min(3, height) / 0.1, anchor=(0, 1))
    bar.formatter.set_useOffset(False)
    bar.ax.axhline(scale.nothing, color="black", linewidth=1)
    return bar


def map_height(rows):
    """In inches."""
    return min(100, 0.14 * max(10, rows))


def new_heat_figure(panels, rows):
    return subplots(1, panels, figsize=(3.8 if panels == 1 else 3.3 * panels, 0.55 + map_height(rows)), squeeze=False)


def draw_panels(drawing, title, maps, labels, scales, bar_label):
    """One panel per kind, side by side: maps {kind: values}."""
    figure, axes = new_heat_figure(len(maps), len(labels))
    for i, (kind, values) in enumerate(maps.items()):
        bar = draw_heat_map(axes[0][i], values, labels if i == 0 else [], kind, scales[kind])
        axes[0][i].set_xlabel(drawing.axis(kind))
        if len(maps) > 1:
            axes[0][i].set_title(drawing.restored(kind))
        bar.set_label(bar_label(scales[kind]), labelpad=6)
    set_title(figure, title)
    return figure


def scales_of(maps, nothing, shared):
    if shared:
        return dict.fromkeys(maps, Scale(list(maps.values()), nothing))
    return {kind: Scale([values], nothing) for kind, values in maps.items()}


def token_label(token):
    return label(token, 24) if token.strip(" ") else "\u2423" * len(token)


def fact_maps(fact):
    """Scores by kind, and the names of rows."""
    begin, end = fact.subject_range
    tokens = [token_label(t) + ("*" if begin <= i < end else "") for i, t in enumerate(fact.tokens)]
    return {kind: fact.scores(kind) for kind in fact.kinds}, tokens


def fact_bar_label(fact):
    answer = label(fact.answer.strip(), 20)
    return lambda scale: f"p({answer})\nline: {scale.nothing:.3g}, with nothing restored"


def draw_fact(drawing, fact, figures, shared):
    maps, tokens = fact_maps(fact)
    scales = scales_of(maps, fact.low_score, shared)
    for kind in maps:
        with figures.one(f"heatmap_{fact.name}{suffix(kind)}") as save:
            title = [heading(fact), f"Subject (*) corrupted, {drawing.restored(kind)} restored"]
            save(draw_panels(drawing, title, {kind: maps[kind]}, tokens, scales, fact_bar_label(fact)))
    if fact.fields.has("severed"):
        with figures.one(f"severed_{fact.name}") as save:
            save(draw_severed_fact(drawing, fact))


def draw_fact_panels(drawing, fact, shared):
    maps, tokens = fact_maps(fact)
    title = [heading(fact), f"{drawing.model}: subject (*) corrupted, and one of these restored"]
    return draw_panels(drawing, title, maps, tokens, scales_of(maps, fact.low_score, shared), fact_bar_label(fact))


# --- Averages --------------------------------------------------------------------------------------------------------


def average_maps(drawing):
    maps = {kind: average.indirect_effect for kind, average in drawing.averages.items()}
    first = next(iter(drawing.averages.values()))
    rows = [f"{row}, n = {n}" for row, n in zip(first.rows, first.row_cases)]
    there = [i for i in range(len(rows)) if not all(np.isnan(values[i]).all() for values in maps.values())]
    return {kind: values[there] for kind, values in maps.items()}, [rows[i] for i in there]


def draw_averages(drawing, figures):
    if not drawing.averages:
        return
    maps, rows = average_maps(drawing)
    scales = scales_of(maps, 0.0, shared=True)  # kinds are compared with each other
    for kind in maps:
        with figures.one(f"average{suffix(kind)}") as save:
            title = [f"Average indirect effect (AIE): {drawing.restored(kind)}", f"{drawing.model}, mean over {drawing.cases()}"]
            save(draw_panels(drawing, title, {kind: maps[kind]}, rows, scales, lambda _: AIE))
    with figures.one("average_lines") as save:
        save(draw_lines(drawing))


def draw_average_panels(drawing):
    maps, rows = average_maps(drawing)
    title = [f"Average indirect effect (AIE) of what is restored: {drawing.model}, mean over {drawing.cases()}"]
    return draw_panels(drawing, title, maps, rows, scales_of(maps, 0.0, shared=True), lambda _: AIE)


def count_layers(axes, layers):
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlim(-0.5, layers - 0.5)


def draw_lines(drawing):
    averages = drawing.averages
    figure, all_axes = subplots(1, len(averages), figsize=(2.2 + 2.7 * len(averages), 2.8), sharey=True, squeeze=False)
    for axes, (kind, average) in zip(all_axes[0], averages.items()):
        draw_rows(axes, drawing, average)
        axes.set_title(drawing.restored(kind))
        axes.set_xlabel(drawing.axis(kind))
        count_layers(axes, drawing.layers)
    all_axes[0][0].set_ylabel(AIE)
    all_axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.8)
    set_title(figure, [f"Average indirect effect (AIE) of what is restored: {drawing.model}, mean over {drawing.cases()}, bands: 95 % interval"])
    return figure


def draw_rows(axes, drawing, average):
    """A line per kind of token."""
    colours = plt.get_cmap("tab10").colors
    axes.axhline(0, color="grey", linewidth=0.6)
    cases, effects, bands = average.row_cases, average.indirect_effect, average.confidence
    for i, row in enumerate(average.rows):
        effect, band = effects[i], bands[i]
        if np.isnan(effect).all():
            continue
        colour, width, dashes = ROWS[i]
        axes.fill_between(range(drawing.layers), effect - band, effect + band, alpha=0.2, color=colours[colour], linewidth=0)
        axes.plot(effect, label=f"{row} (n = {cases[i]})", color=colours[colour], linewidth=width, linestyle=dashes,
                  marker="." if drawing.layers < 2 else None)


def draw_severed(drawing, effects, bands, title):
    """Effects by series: bars, or lines where there are many layers."""
    figure, axes = subplots(figsize=(6.4, 2.4), dpi=300)
    axes.axhline(0, color="black", linewidth=0.6)
    series = [one for one in SERIES if one[0] in effects]
    width = 0.9 / len(series)
    for i, (name, colour, dashes, words) in enumerate(series):
        values, band = np.asarray(effects[name]), bands.get(name)
        layers = np.arange(len(values))
        if len(values) > MOST_BARS:
            axes.plot(layers, values, color=colour, linestyle=dashes, linewidth=1.4, label=words)
            if band is not None:
                axes.fill_between(layers, values - band, values + band, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.bar(layers + (i - (len(series) - 1) / 2) * width, values, width=width, color=colour, label=words, yerr=band,
                     error_kw={"elinewidth": 0.6})
    axes.set_ylabel("indirect effect on p(answer)" if not bands else "average indirect effect\non p(answer)")
    axes.set_xlabel(f"layer of {label(drawing.model)} at which the state is restored")
    count_layers(axes, drawing.layers)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    set_title(figure, title)
    return figure


def draw_severed_fact(drawing, fact):
    low = fact.low_score
    effects = {name: scores - low for name, scores in fact.severed.items()}
    return draw_severed(drawing, effects, {}, [heading(fact), "State at the last subject token restored, modules above it severed"])


def draw_severed_averages(drawing, averages):
    shown = "bands" if drawing.layers > MOST_BARS else "error bars"
    return draw_severed(drawing, averages.effects, averages.confidence, [
        "State at the last subject token restored, modules above it severed",
        f"{drawing.model}, mean over n = {plural(averages.cases, 'fact')}, {shown}: 95 % interval"])


# --- For Python ------------------------------------------------------------------------------------------------------


def traced_fact(trace, known_id):
    fact = trace.fact(known_id)
    if not fact.traced:
        raise LociError(f"{trace.path}: fact {known_id} was not traced, since the model predicted something else")
    return fact


def heat_maps(trace: results.Trace, known_id: Optional[int] = None, shared_scale: bool = False, model_name: Optional[str] = None) -> Figure:
    """A figure with the heat maps of all kinds side by side, [tokens, layers] each.

    known_id: the fact whose scores are drawn; None: the average indirect effects over all facts. shared_scale: one colour scale for
    the maps of a fact (averages always share theirs). model_name: how the figure calls the model. LociError: there is no such fact,
    or it (or no fact) was traced.
    """
    drawing = Drawing(trace, model_name)
    if known_id is None:
        require_averages(drawing)
        with style(drawing.texts([])):
            return drawn(draw_average_panels(drawing))
    fact = traced_fact(trace, known_id)
    with style(drawing.texts([fact])):
        return drawn(draw_fact_panels(drawing, fact, shared_scale))


def average_lines(trace: results.Trace, model_name: Optional[str] = None) -> Figure:
    """A figure with the average indirect effects as lines over layers, one per kind of token, with 95 % intervals. LociError: no fact
    was traced."""
    drawing = Drawing(trace, model_name)
    require_averages(drawing)
    with style(drawing.texts([])):
        return drawn(draw_lines(drawing))


def severed(trace: results.Trace, known_id: Optional[int] = None, model_name: Optional[str] = None) -> Figure:
    """A figure with the indirect effects by layer while MLPs or attention are severed: of a fact, or (None) averages with 95 %
    intervals. LociError: nothing was severed (--sever)."""
    drawing = Drawing(trace, model_name)
    fact = None if known_id is None else traced_fact(trace, known_id)
    averages = trace.severed
    if (averages is None) if fact is None else not fact.severed:
        raise LociError(f"{trace.path}: no modules were severed; trace with --sever mlp,attn")
    with style(drawing.texts([fact] if fact else [])):
        return drawn(draw_severed_fact(drawing, fact) if fact else draw_severed_averages(drawing, averages))


# --- The command -----------------------------------------------------------------------------------------------------


def chosen_facts(drawing, arguments):
    if arguments.facts == "all":
        return drawing.facts
    if not arguments.facts:
        return drawing.facts[: arguments.first]
    return [traced_fact(drawing.trace, name) for name in arguments.facts.split(",")]


def require_averages(drawing):
    if not drawing.averages:
        raise nothing_traced(drawing)


def nothing_traced(drawing):
    return LociError(f"{drawing.trace.path}: there is nothing to draw: none of its {plural(len(drawing.all_facts), 'fact')} was traced, "
                     "since the model predicted something else", NOTHING_TO_DRAW)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="TRACE.h5")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="draw all kinds of figures, in this folder")
    where.add_argument("--figure", metavar="FILE", help="draw one figure: the maps of a fact, or of the averages (.png, .svg, .pdf)")
    parser.add_argument("--facts", default="", metavar="IDS", help="known ids with commas between, or all")
    parser.add_argument("--first", type=int, default=3, metavar="N", help="without --facts: how many facts to draw (default 3)")
    parser.add_argument("--shared-scale", action="store_true", help="one colour scale for all maps of a fact, so that they can be compared")
    parser.add_argument("--model-name", help="how figures call the model (default: as the file does)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the figures in --output (default png)")
    arguments = parser.parse_args()
    if arguments.first < 0:
        parser.error(f"--first {arguments.first}: must be 0 or more")
    if arguments.figure and os.path.splitext(arguments.figure)[1] not in (".png", ".svg", ".pdf"):
        parser.error(f"--figure {arguments.figure}: the name must end in .png, .svg or .pdf")
    return arguments


def draw_one(drawing, arguments):
    facts = chosen_facts(drawing, arguments) if arguments.facts or len(drawing.all_facts) == 1 else []
    if len(facts) > 1:
        fail("--figure: draws one fact; name one with --facts, or give --output DIR")
    choose_fonts(drawing.texts(facts))
    stem, ending = os.path.splitext(arguments.figure)
    figures = Figures("", ending[1:])
    with figures.one(stem) as save:
        save(draw_fact_panels(drawing, facts[0], arguments.shared_scale) if facts else draw_average_panels(drawing))
    return figures.exit_code()


def draw_folder(drawing, arguments):
    facts = chosen_facts(drawing, arguments)
    make_folder(arguments.output)
    choose_fonts(drawing.texts(facts))
    figures = Figures(arguments.output, arguments.format)
    for fact in facts:
        draw_fact(drawing, fact, figures, arguments.shared_scale)
    draw_averages(drawing, figures)
    averages = drawing.trace.severed
    if averages:
        with figures.one("severed") as save:
            save(draw_severed_averages(drawing, averages))
    return figures.exit_code()


def draw_all(trace, arguments):
    drawing = Drawing(trace, arguments.model_name)
    if not drawing.facts:
        raise nothing_traced(drawing)
    return draw_one(drawing, arguments) if arguments.figure else draw_folder(drawing, arguments)


def main():
    """The command plot_trace.py. Returns its exit code."""
    arguments = read_arguments()
    return draw_file(arguments.file, "trace", lambda trace: draw_all(trace, arguments))
