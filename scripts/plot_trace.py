#!/usr/bin/python3
"""Draws the traces in a result file of `loci trace`.

    plot_trace.py TRACE.h5 --output DIR [--facts 0,12,16 | --facts all | --first N] [--format png|pdf]

Heat maps of single facts (heatmap_{id}[_mlp|_attn]) and of the averages (average[_mlp|_attn]), averaged indirect effects as
lines with 95 % intervals (average_lines), and, where modules were severed, their effects by layer (severed, severed_{id}).
"""
import argparse
import os
import sys

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402
import numpy as np  # noqa: E402

KINDS = ("state", "mlp", "attn")
COLOURS = {"state": "Purples", "mlp": "Greens", "attn": "Reds"}
MODULES = {"mlp": "MLP", "attn": "attention"}
ROW_COLOURS = (0, 1, 2, 4, 5, 3)  # of the ten-colour cycle: the first subsequent and the further tokens apart from the last
SERIES = (("ordinary", "#7261ab", "single state restored"), ("no_attn", "#f3201b", "with attention severed"),
          ("no_mlp", "#20b020", "with MLPs severed"))


def suffix(kind):
    return "" if kind == "state" else f"_{kind}"


def printable(token):
    """Line ends and tabs would tear a label apart; characters that fonts lack are shown as they come."""
    return token.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").replace("$", r"\$")


def layer_ticks(axes, layers):
    step = max(1, layers // 9 if layers < 20 else 5)
    ticks = list(range(0, layers, step))
    axes.set_xticks([t + 0.5 for t in ticks])
    axes.set_xticklabels(ticks)


def save(figure, folder, name, kind):
    path = os.path.join(folder, f"{name}.{kind}")
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    print(path)


def heat_map(values, labels, kind, low, high, title, xlabel, bar_label):
    """First row on top; the lower end of the colours is `low`."""
    figure, axes = plt.subplots(figsize=(3.5, 0.6 + 0.14 * max(10, len(labels))), dpi=200)
    mesh = axes.pcolormesh(values, cmap=COLOURS[kind], vmin=low, vmax=max(high, low + 1e-9))
    axes.invert_yaxis()
    axes.set_yticks([0.5 + i for i in range(len(labels))])
    axes.set_yticklabels(labels, fontsize=7)
    layer_ticks(axes, values.shape[1])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(xlabel, fontsize=7)
    bar = plt.colorbar(mesh)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(bar_label, fontsize=7)
    return figure


def titles(kind, window, model):
    if kind == "state":
        return "Impact of restoring a state after corrupted input", f"single restored layer within {model}"
    module = MODULES[kind]
    return (f"Impact of restoring {module} after corrupted input",
            f"centre of the interval of {window} restored {module} layers")


def draw_fact(file, name, folder, file_format, model):
    fact = file["facts"][name]
    begin, end = fact.attrs["subject_range"]
    labels = [printable(t) for t in fact["input_tokens"].asstr()[:]]
    labels = [t + "*" if begin <= i < end else t for i, t in enumerate(labels)]
    for kind in KINDS:
        if f"scores_{kind}" not in fact:
            continue
        scores = fact[f"scores_{kind}"][:]
        title, xlabel = titles(kind, fact.attrs["window"], model)
        answer = printable(fact.attrs["answer"].strip())
        figure = heat_map(scores, labels, kind, fact.attrs["low_score"], scores.max(), title, xlabel, f"p({answer})")
        save(figure, folder, f"heatmap_{name}{suffix(kind)}", file_format)
    if "severed" in fact:
        effects = {s: fact["severed"][s][0] - fact.attrs["low_score"] for s in fact["severed"]}
        figure = severed_bars(effects, {}, f"{fact.attrs['prompt']}", model)
        save(figure, folder, f"severed_{name}", file_format)


def draw_averages(file, folder, file_format, model):
    kinds = [k for k in KINDS if f"averages/{k}" in file and file["averages"][k].attrs["cases"] > 0]
    if not kinds:
        return
    # One scale for all kinds, set by the states where they were traced.
    top = np.nanmax(np.clip(file["averages"][kinds[0]]["indirect_effect"][:], 0, None))
    for kind in kinds:
        group = file["averages"][kind]
        what = {"state": "states", "mlp": "MLPs", "attn": "attention"}[kind]
        title = f"Average indirect effect of {what} over {group.attrs['cases']} prompts"
        values = np.clip(np.nan_to_num(group["indirect_effect"][:]), 0, None)
        figure = heat_map(values, list(group["row"].asstr()[:]), kind, 0, top, title,
                          titles(kind, file.attrs["window"], model)[1], "AIE")
        save(figure, folder, f"average{suffix(kind)}", file_format)
    draw_lines(file, kinds, folder, file_format, model)


def draw_lines(file, kinds, folder, file_format, model):
    figure, all_axes = plt.subplots(1, len(kinds), figsize=(4.4 * len(kinds), 3.5), sharey=True, dpi=200, squeeze=False)
    colours = plt.get_cmap("tab10").colors
    names = {"state": "a single hidden state", "mlp": f"a run of {file.attrs['window']} MLPs",
             "attn": f"a run of {file.attrs['window']} attention modules"}
    for axes, kind in zip(all_axes[0], kinds):
        group = file["averages"][kind]
        for i, label in enumerate(group["row"].asstr()[:]):
            effect, band = group["indirect_effect"][i], group["confidence"][i]
            if np.isnan(effect).all():
                continue
            layers = np.arange(len(effect))
            colour = colours[ROW_COLOURS[i]]
            axes.fill_between(layers, effect - band, effect + band, alpha=0.3, color=colour)
            axes.plot(layers, effect, label=label, color=colour)
        axes.set_title(f"Average indirect effect of {names[kind]}", fontsize=9)
        axes.set_xlabel(f"layer of {model}")
    all_axes[0][0].set_ylabel("average indirect effect on p(o)")
    all_axes[0][len(kinds) // 2].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, folder, "average_lines", file_format)


def severed_bars(effects, bands, title, model):
    figure, axes = plt.subplots(1, figsize=(6, 2.1), dpi=300)
    for shift, (series, colour, label) in zip((-0.3, 0, 0.3), SERIES):
        if series not in effects:
            continue
        values = np.asarray(effects[series])
        axes.bar(np.arange(len(values)) + shift, values, width=0.3, color=colour, label=label, yerr=bands.get(series),
                 error_kw={"elinewidth": 0.6})
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("indirect effect", fontsize=8)
    axes.set_xlabel(f"layer of {model} at which the last subject token's state is restored", fontsize=8)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.set_ylim(None, max(0.025, 1.05 * max(np.max(v + bands.get(s, 0)) for s, v in effects.items())))
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=7)
    return figure


def draw_severed(file, folder, file_format, model):
    group = file.get("averages/severed")
    if group is None or group.attrs["cases"] == 0:
        return
    effects = {s: group[s][:] for s, _, _ in SERIES if s in group}
    bands = {s: group[f"{s}_confidence"][:] for s in effects}
    title = f"Average effect of states at the last subject token, modules severed ({group.attrs['cases']} prompts)"
    save(severed_bars(effects, bands, title, model), folder, "severed", file_format)


def chosen_facts(file, arguments):
    correct = [n for n in file["facts"] if file["facts"][n].attrs["correct_prediction"]]
    correct.sort(key=lambda n: file["facts"][n].attrs["record"])
    if arguments.facts == "all":
        return correct
    if arguments.facts:
        names = arguments.facts.split(",")
        for name in names:
            if name not in file["facts"]:
                sys.exit(f"{arguments.file}: there is no fact {name}")
            if name not in correct:
                sys.exit(f"{arguments.file}: fact {name} was answered otherwise, so it was not traced")
        return names
    return correct[: arguments.first]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="TRACE.h5")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--facts", default="", help="known ids with commas between, or all")
    parser.add_argument("--first", type=int, default=3, help="without --facts: how many facts to draw (default 3)")
    parser.add_argument("--model-name", help="how figures call the model (default: its folder's name)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    arguments = parser.parse_args()
    try:
        file = h5py.File(arguments.file, "r")
    except OSError as error:
        sys.exit(f"{arguments.file}: cannot be read: {error}")
    with file:
        if file.attrs.get("kind") != "trace":
            sys.exit(f"{arguments.file}: is no result file of loci trace")
        model = arguments.model_name or file.attrs.get("model_name") or "the model"
        os.makedirs(arguments.output, exist_ok=True)
        for name in chosen_facts(file, arguments):
            draw_fact(file, name, arguments.output, arguments.format, model)
        draw_averages(file, arguments.output, arguments.format, model)
        draw_severed(file, arguments.output, arguments.format, model)


if __name__ == "__main__":
    main()
