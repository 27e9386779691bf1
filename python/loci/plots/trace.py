#!/usr/bin/python3
"""Draws the traces in a result file of `loci trace`.

    plot_trace.py TRACE.h5 --output DIR [--facts 0,12,16 | --facts all | --first N] [--format png|pdf|svg] [--shared-scale]
    plot_trace.py TRACE.h5 --figure FILE.png|svg|pdf

In a folder: heat maps of single facts (heatmap_{id}[_mlp|_attn]) and of the averages (average[_mlp|_attn]), averaged indirect
effects as lines with 95 % intervals (average_lines), and, where modules were severed, their effects by layer (severed,
severed_{id}). As one figure: the heat maps of all kinds side by side, of the fact where the file holds one, else of the averages.
"""
import argparse
import os
import sys

from plotting import Figures, fail, find_fonts, label, make_folder, open_result, plt, set_title
import matplotlib.colors
import matplotlib.ticker
import numpy as np

KINDS = ("state", "mlp", "attn")
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


class Trace:
    """A result file and how figures call its model."""

    def __init__(self, file, model_name):
        self.file = file
        self.model = model_name or file.attrs.get("model_name") or "the model"
        self.window = int(file.attrs.get("window", 0))
        self.layers = len(file["layer"])
        facts = file["facts"]
        self.all_facts = sorted(facts, key=lambda n: facts[n].attrs["record"])
        self.facts = [n for n in self.all_facts if facts[n].attrs["correct_prediction"]]

    def restored(self, kind):
        """What was restored, in words."""
        return "one hidden state" if kind == "state" else f"{MODULES[kind]} {self.window_of_layers()}"

    def window_of_layers(self):
        whole = f" (the model has {self.layers})" if self.window >= self.layers else ""
        return f"of {plural(self.window, 'layer')}{whole}"

    def axis(self, kind):
        return f"{'' if kind == 'state' else 'central '}layer of {label(self.model)}"

    def kinds(self):
        """Those that the averages hold."""
        averages = self.file.get("averages", {})
        return [k for k in KINDS if k in averages and averages[k].attrs["cases"] > 0]


def heading(fact):
    return f"\u201c{fact.attrs['prompt']}\u201d \u2192 \u201c{fact.attrs['answer'].strip()}\u201d"


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
    return plt.subplots(1, panels, figsize=(3.8 if panels == 1 else 3.3 * panels, 0.55 + map_height(rows)), dpi=200, squeeze=False,
                        layout="constrained")


def draw_panels(trace, title, maps, labels, scales, bar_label):
    """One panel per kind, side by side: maps {kind: values}."""
    figure, axes = new_heat_figure(len(maps), len(labels))
    for i, (kind, values) in enumerate(maps.items()):
        bar = draw_heat_map(axes[0][i], values, labels if i == 0 else [], kind, scales[kind])
        axes[0][i].set_xlabel(trace.axis(kind))
        if len(maps) > 1:
            axes[0][i].set_title(trace.restored(kind))
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
    begin, end = fact.attrs["subject_range"]
    tokens = [token_label(t) + ("*" if begin <= i < end else "") for i, t in enumerate(fact["input_tokens"].asstr()[:])]
    return {k: fact[f"scores_{k}"][:] for k in KINDS if f"scores_{k}" in fact}, tokens


def fact_bar_label(fact):
    answer = label(fact.attrs["answer"].strip(), 20)
    return lambda scale: f"p({answer})\nline: {scale.nothing:.3g}, with nothing restored"


def draw_fact(trace, name, figures, shared):
    fact = trace.file["facts"][name]
    maps, tokens = fact_maps(fact)
    scales = scales_of(maps, fact.attrs["low_score"], shared)
    for kind in maps:
        with figures.one(f"heatmap_{name}{suffix(kind)}") as save:
            title = [heading(fact), f"Subject (*) corrupted, {trace.restored(kind)} restored"]
            save(draw_panels(trace, title, {kind: maps[kind]}, tokens, scales, fact_bar_label(fact)))
    if "severed" in fact:
        with figures.one(f"severed_{name}") as save:
            effects = {s: fact["severed"][s][0] - fact.attrs["low_score"] for s in fact["severed"]}
            save(draw_severed(trace, effects, {}, [heading(fact), "State at the last subject token restored, modules above it severed"]))


def draw_fact_panels(trace, name, save, shared):
    fact = trace.file["facts"][name]
    maps, tokens = fact_maps(fact)
    title = [heading(fact), f"{trace.model}: subject (*) corrupted, and one of these restored"]
    save(draw_panels(trace, title, maps, tokens, scales_of(maps, fact.attrs["low_score"], shared), fact_bar_label(fact)))


# --- Averages --------------------------------------------------------------------------------------------------------


def average_maps(trace):
    averages = trace.file["averages"]
    maps = {kind: averages[kind]["indirect_effect"][:] for kind in trace.kinds()}
    first = averages[next(iter(maps))]
    rows = [f"{row}, n = {n}" for row, n in zip(first["row"].asstr()[:], first["row_cases"][:])]
    there = [i for i in range(len(rows)) if not all(np.isnan(values[i]).all() for values in maps.values())]
    return {kind: values[there] for kind, values in maps.items()}, [rows[i] for i in there]


def cases(trace):
    return f"n = {plural(int(trace.file['averages'][trace.kinds()[0]].attrs['cases']), 'fact')}"


def draw_averages(trace, figures):
    if not trace.kinds():
        return
    maps, rows = average_maps(trace)
    scales = scales_of(maps, 0.0, shared=True)  # kinds are compared with each other
    for kind in maps:
        with figures.one(f"average{suffix(kind)}") as save:
            title = [f"Average indirect effect (AIE): {trace.restored(kind)}", f"{trace.model}, mean over {cases(trace)}"]
            save(draw_panels(trace, title, {kind: maps[kind]}, rows, scales, lambda _: AIE))
    with figures.one("average_lines") as save:
        save(draw_lines(trace))


def draw_average_panels(trace, save):
    maps, rows = average_maps(trace)
    title = [f"Average indirect effect (AIE) of what is restored: {trace.model}, mean over {cases(trace)}"]
    save(draw_panels(trace, title, maps, rows, scales_of(maps, 0.0, shared=True), lambda _: AIE))


def count_layers(axes, layers):
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlim(-0.5, layers - 0.5)


def draw_lines(trace):
    kinds = trace.kinds()
    figure, all_axes = plt.subplots(1, len(kinds), figsize=(2.2 + 2.7 * len(kinds), 2.8), sharey=True, dpi=200, squeeze=False,
                                    layout="constrained")
    colours = plt.get_cmap("tab10").colors
    for axes, kind in zip(all_axes[0], kinds):
        group = trace.file["averages"][kind]
        axes.axhline(0, color="grey", linewidth=0.6)
        for i, row in enumerate(group["row"].asstr()[:]):
            effect, band = group["indirect_effect"][i], group["confidence"][i]
            if np.isnan(effect).all():
                continue
            colour, width, dashes = ROWS[i]
            name = f"{row} (n = {group['row_cases'][i]})"
            axes.fill_between(range(trace.layers), effect - band, effect + band, alpha=0.2, color=colours[colour], linewidth=0)
            axes.plot(effect, label=name, color=colours[colour], linewidth=width, linestyle=dashes, marker="." if trace.layers < 2 else None)
        axes.set_title(trace.restored(kind))
        axes.set_xlabel(trace.axis(kind))
        count_layers(axes, trace.layers)
    all_axes[0][0].set_ylabel(AIE)
    all_axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.8)
    set_title(figure, [f"Average indirect effect (AIE) of what is restored: {trace.model}, mean over {cases(trace)}, bands: 95 % interval"])
    return figure


def draw_severed(trace, effects, bands, title):
    """Effects by series: bars, or lines where there are many layers."""
    figure, axes = plt.subplots(figsize=(6.4, 2.4), dpi=300, layout="constrained")
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
    axes.set_xlabel(f"layer of {label(trace.model)} at which the state is restored")
    count_layers(axes, trace.layers)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    set_title(figure, title)
    return figure


def draw_severed_averages(trace, figures):
    group = trace.file.get("averages/severed")
    if group is None or group.attrs["cases"] == 0:
        return
    with figures.one("severed") as save:
        effects = {s: group[s][:] for s, _, _, _ in SERIES if s in group}
        bands = {s: group[f"{s}_confidence"][:] for s in effects}
        shown = "bands" if trace.layers > MOST_BARS else "error bars"
        save(draw_severed(trace, effects, bands, [
            "State at the last subject token restored, modules above it severed",
            f"{trace.model}, mean over n = {plural(int(group.attrs['cases']), 'fact')}, {shown}: 95 % interval"]))


# --- The command -----------------------------------------------------------------------------------------------------


def chosen_facts(trace, arguments):
    if arguments.facts == "all":
        return trace.facts
    if not arguments.facts:
        return trace.facts[: arguments.first]
    names = arguments.facts.split(",")
    for name in names:
        if name not in trace.all_facts:
            fail(f"{arguments.file}: there is no fact {name}")
        if name not in trace.facts:
            fail(f"{arguments.file}: fact {name} was not traced, since the model predicted something else")
    return names


def check_traced(trace, path):
    if not trace.facts:
        fail(f"{path}: there is nothing to draw: none of its {plural(len(trace.all_facts), 'fact')} was traced, since the model predicted "
             "something else", NOTHING_TO_DRAW)


def texts(trace, names):
    """All that may be written on a figure."""
    yield trace.model
    for name in names:
        fact = trace.file["facts"][name]
        yield from (fact.attrs["prompt"], fact.attrs["answer"], *fact["input_tokens"].asstr()[:])


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


def draw_one(trace, arguments):
    names = chosen_facts(trace, arguments) if arguments.facts or len(trace.all_facts) == 1 else []
    find_fonts(texts(trace, names))
    stem, ending = os.path.splitext(arguments.figure)
    figures = Figures("", ending[1:])
    with figures.one(stem) as save:
        if len(names) > 1:
            fail("--figure: draws one fact; name one with --facts, or give --output DIR")
        if names:
            draw_fact_panels(trace, names[0], save, arguments.shared_scale)
        else:
            draw_average_panels(trace, save)
    return figures.exit_code()


def draw_folder(trace, arguments):
    names = chosen_facts(trace, arguments)
    make_folder(arguments.output)
    find_fonts(texts(trace, names))
    figures = Figures(arguments.output, arguments.format)
    for name in names:
        draw_fact(trace, name, figures, arguments.shared_scale)
    draw_averages(trace, figures)
    draw_severed_averages(trace, figures)
    return figures.exit_code()


def main():
    arguments = read_arguments()
    with open_result(arguments.file, "trace") as file:
        try:
            trace = Trace(file, arguments.model_name)
            check_traced(trace, arguments.file)
            return draw_one(trace, arguments) if arguments.figure else draw_folder(trace, arguments)
        except (KeyError, OSError) as error:  # of what all figures need
            fail(f"{arguments.file}: is damaged: {error.args[0]}")


if __name__ == "__main__":
    sys.exit(main())
