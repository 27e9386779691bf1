#!/usr/bin/python3
"""The plotting scripts on small files of every kind of text and size.    plots_test.py SOURCE_DIR

Exits with 77 (skipped) where this Python cannot plot.
"""
import contextlib
import io
import os
import runpy
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.path.abspath(sys.argv.pop(1))
SCRIPTS = os.path.join(SOURCE, "scripts")
sys.path[:0] = [SCRIPTS, os.path.join(SOURCE, "python")]
try:
    import h5py
    import matplotlib  # noqa: F401
    import numpy
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
import loci  # noqa: E402
from loci.plots import common as plotting  # noqa: E402
from loci.plots.comparison import draw_comparison  # noqa: E402

plotting.use_style()

ODD = ["It", " $$", "5", " $x^2$", " \\frac{a}", " 100%", " _u_", "\n", "\t", "\x07", "\u00a0", " ", " caf\u00e9", " \ufffd", "\u05e9\u05dc", " in"]


def write_trace(path, prompts, layers=4, window=2, correct=True):
    """prompts: lists of tokens; the second token is the subject."""
    random = numpy.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.attrs.update(kind="trace", model_name="gpt2_$1$", window=window)
        file["layer"] = numpy.arange(layers)
        for number, tokens in enumerate(prompts):
            fact = file.create_group(f"facts/{number}")
            fact.attrs.update(known_id=number, record=number, prompt="".join(tokens), answer=" Rome", subject_range=[1, 2], window=window,
                              correct_prediction=int(correct), high_score=0.9, low_score=0.2)
            fact.create_dataset("input_tokens", data=tokens, dtype=h5py.string_dtype())
            for kind in ("state", "mlp", "attn"):
                fact[f"scores_{kind}"] = random.random((len(tokens), layers), dtype=numpy.float32)
            for series in ("ordinary", "no_mlp", "no_attn"):
                fact[f"severed/{series}"] = random.random((1, layers))
        for kind in ("state", "mlp", "attn"):
            group = file.create_group(f"averages/{kind}")
            group.attrs["cases"] = len(prompts) if correct else 0
            group.create_dataset("row", data=["first subject token", "middle subject tokens", "last subject token", "first subsequent token",
                                              "further tokens", "last token"], dtype=h5py.string_dtype())
            group["row_cases"] = [1, 0, 2, 2, 2, 2]
            effect = random.random((6, layers)) - 0.3
            effect[1] = numpy.nan
            group["indirect_effect"], group["confidence"] = effect, numpy.abs(effect) / 4
        severed = file.create_group("averages/severed")
        severed.attrs["cases"] = len(prompts) if correct else 0
        for series in ("ordinary", "no_mlp", "no_attn"):
            severed[series], severed[f"{series}_confidence"] = random.random(layers) - 0.3, random.random(layers) / 10


def write_edits(path, edits, scored=True):
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "edits"
        for number in range(edits):
            edit = file.create_group(f"edits/{number}")
            edit.attrs.update(prompt="The $city$ of {} is in", subject="A_b", target_new=" Rome", target_true="Paris", layer=1)
            if scored:
                edit.attrs.update(probability_new_before=1e-4, probability_new_after=0.95, probability_true_before=0.9, probability_true_after=0.01)
            edit["loss_curve"] = numpy.linspace([9, 8, 0, 1, 0], [0.1, 0.05, 0.02, 0.03, 0.95], 5)
            edit["loss_curve"].attrs["columns"] = ["total", "target_nll", "kl", "decay", "target_probability"]


def write_comparison(path, points=(1, 10, 100), failed=(), text=True, sequential=False):
    methods, names = ["rome", "m_$x^2$"], ["ES", "PS", "NS"]
    rows = ["unedited"] + [method for method in methods for _ in points]
    edits = [0] + list(points) * len(methods)
    random = numpy.random.default_rng(2)
    with h5py.File(path, "w") as file:
        file.attrs.update(kind="comparison", model_name="gpt2_$1$", dataset="counterfact", mode="sequential" if sequential else "independent")
        for name, values in (("methods", methods), ("metrics/name", names), ("rows/method", rows),
                             ("rows/failure", ["it is singular" if row in failed else "" for row in range(len(rows))])):
            file.create_dataset(name, data=values, dtype=h5py.string_dtype())
        file["edits_at"], file["rows/edits"], file["records/case_id"] = points, edits, numpy.arange(points[-1])
        perplexity = random.uniform(10, 2000, len(rows)) if text else numpy.full(len(rows), numpy.nan)
        mean = random.random((len(rows), 3))
        for row in failed:
            perplexity[row] = mean[row] = numpy.nan
        file["rows/perplexity"], file["mean"], file["interval"] = perplexity, mean, 0.1 * mean
        if sequential:
            table = random.random((len(methods), len(points), len(points)))
            file["retention"] = numpy.where(numpy.tri(len(points)), table, numpy.nan)


class Plots(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run_script(self, script, *arguments, code=0):
        """In this process, which has loaded the libraries already. Returns what the script wrote on standard error."""
        out, errors, ended = io.StringIO(), io.StringIO(), 0
        before, sys.argv = sys.argv, [script, *arguments]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                runpy.run_path(os.path.join(SCRIPTS, script), run_name="__main__")
        except SystemExit as end:
            ended = end.code or 0
        finally:
            sys.argv = before
        self.assertEqual(ended, code, errors.getvalue())
        self.assertNotIn("Glyph", errors.getvalue())
        return errors.getvalue()

    def files(self, name):
        return sorted(os.listdir(self.path(name)))

    def test_any_text_is_drawn(self):
        write_trace(self.path("t.h5"), [ODD, ["An", " edge"]], layers=1)
        errors = self.run_script("plot_trace.py", self.path("t.h5"), "--output", self.path("f"), "--facts", "all", "--shared-scale")
        self.assertEqual(errors, "")
        kinds = ("", "_attn", "_mlp")
        self.assertEqual(self.files("f"), sorted([f"heatmap_{n}{k}.png" for n in (0, 1) for k in kinds] + [f"average{k}.png" for k in kinds] +
                                                 ["average_lines.png", "severed.png", "severed_0.png", "severed_1.png"]))

    def test_a_deep_model_and_a_long_prompt(self):
        write_trace(self.path("t.h5"), [["A", " b"] + [" word"] * 60], layers=48, window=100)
        for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
            self.run_script("plot_trace.py", self.path("t.h5"), "--figure", self.path(f"one.{ending}"))
            with open(self.path(f"one.{ending}"), "rb") as file:
                self.assertEqual(file.read(len(start)), start)
        self.run_script("plot_trace.py", self.path("t.h5"), "--output", self.path("f"), "--first", "0", "--format", "svg")
        self.assertEqual(self.files("f"), ["average.svg", "average_attn.svg", "average_lines.svg", "average_mlp.svg", "severed.svg"])

    def test_characters_that_no_font_has_are_told_in_one_sentence(self):
        tokens = ["The", " \u5317\u4eac", " \U0001f389", " is"]
        write_trace(self.path("t.h5"), [tokens])
        errors = self.run_script("plot_trace.py", self.path("t.h5"), "--figure", self.path("one.png"))
        self.assertLessEqual(errors.count("\n"), 1)
        if errors:
            self.assertIn("fonts-noto-cjk", errors)

    def test_one_figure_that_fails_does_not_stop_the_others(self):
        write_trace(self.path("t.h5"), [["A", " b"], ["C", " d"]])
        with h5py.File(self.path("t.h5"), "a") as file:
            del file["facts/0/severed/ordinary"]
            file["facts/0/severed/ordinary"] = "text"
        errors = self.run_script("plot_trace.py", self.path("t.h5"), "--output", self.path("f"), code=1)
        self.assertEqual(errors.count("could not be drawn"), 1)
        self.assertIn("severed_0.png", errors)
        self.assertNotIn("severed_0.png", self.files("f"))
        self.assertIn("severed_1.png", self.files("f"))
        self.assertIn("severed.png", self.files("f"))

    def test_nothing_to_draw_is_said(self):
        write_trace(self.path("t.h5"), [["A", " b"]], correct=False)
        for where in (("--output", self.path("f")), ("--figure", self.path("one.png"))):
            errors = self.run_script("plot_trace.py", self.path("t.h5"), *where, code=7)
            self.assertIn("nothing to draw: none of its 1 fact was traced", errors)
        self.assertFalse(os.path.exists(self.path("one.png")))

    def test_wrong_calls_are_explained(self):
        write_trace(self.path("t.h5"), [["A", " b"], ["C", " d"]])
        write_edits(self.path("e.h5"), 1)
        with open(self.path("no.h5"), "w") as file:
            file.write("no HDF5")
        for arguments, message in ((["plot_trace.py"], "usage:"), (["plot_edit.py"], "usage:"), (["show_edit.py"], "usage:"),
                                   (["contact_sheet.py"], "usage:"), (["contact_sheet.py", self.path("absent")], "is not a folder"),
                                   (["plot_trace.py", self.path("t.h5"), "--figure", "a.jpg"], "must end in"),
                                   (["plot_trace.py", self.path("t.h5"), "--output", "f", "--first", "-1"], "must be 0 or more"),
                                   (["plot_trace.py", self.path("t.h5"), "--output", self.path("f"), "--facts", "9"], "there is no fact 9"),
                                   (["plot_trace.py", self.path("t.h5"), "--output", self.path("no.h5")], "cannot be made"),
                                   (["plot_trace.py", self.path("e.h5"), "--output", self.path("f")], "is not a result file of loci trace"),
                                   (["plot_trace.py", self.path("no.h5"), "--output", self.path("f")], "cannot be read"),
                                   (["plot_comparison.py"], "usage:"),
                                   (["plot_comparison.py", self.path("e.h5"), "--output", self.path("f")], "is not a result file of loci eval"),
                                   (["plot_edit.py", self.path("e.h5"), "--output", self.path("f"), "--edits", "1"], "there is no edit 1")):
            self.assertIn(message, self.run_script(*arguments, code=2))

    def test_a_reader_that_leaves_does_not_stop_the_drawing(self):
        write_trace(self.path("t.h5"), [["A", " b"]])
        command = [sys.executable, os.path.join(SCRIPTS, "plot_trace.py"), self.path("t.h5"), "--output", self.path("f"), "--first", "0"]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        run.stdout.close()
        self.assertEqual(run.stderr.read(), b"")
        run.stderr.close()
        self.assertEqual(run.wait(), 0)
        self.assertIn("severed.png", self.files("f"))

    def test_edits(self):
        write_edits(self.path("e.h5"), 3)
        self.run_script("plot_edit.py", self.path("e.h5"), "--output", self.path("f"), "--first", "2")
        self.assertEqual(self.files("f"), ["before_after.png", "loss_0.png", "loss_1.png"])
        write_edits(self.path("old.h5"), 1, scored=False)
        errors = self.run_script("plot_edit.py", self.path("old.h5"), "--output", self.path("g"), code=1)
        self.assertIn("no probabilities", errors)
        self.assertEqual(self.files("g"), ["loss_0.png"])

    def test_comparisons(self):
        write_comparison(self.path("c.h5"), failed=[3])
        errors = self.run_script("plot_comparison.py", self.path("c.h5"), "--output", self.path("f"))
        self.assertEqual(errors.strip(), "plot_comparison.py: rome has no point at 100 edits, where it failed: it is singular")
        self.assertEqual(self.files("f"), ["comparison.png"])
        write_comparison(self.path("s.h5"), points=(5,), text=False, sequential=True)
        self.assertEqual(self.run_script("plot_comparison.py", self.path("s.h5"), "--output", self.path("g"), "--format", "svg"), "")
        self.assertEqual(self.files("g"), ["comparison.svg", "retention.svg"])
        write_comparison(self.path("n.h5"), points=(5,), failed=[1, 2])
        self.assertIn("every method failed", self.run_script("plot_comparison.py", self.path("n.h5"), "--output", self.path("h"), code=7))

    def test_the_panels_hold_the_numbers_of_the_file(self):
        write_comparison(self.path("c.h5"), failed=[3])
        with loci.open(self.path("c.h5")) as result, h5py.File(self.path("c.h5")) as file:
            axes = draw_comparison(result).axes
            mean, perplexity = file["mean"][:], file["rows/perplexity"][:]
        for panel, values in zip(axes, [*(100 * mean.T), perplexity]):
            unedited, rome, other = panel.get_lines()
            self.assertEqual(unedited.get_ydata()[0], values[0])
            numpy.testing.assert_array_equal(rome.get_ydata(), values[1:4])
            numpy.testing.assert_array_equal(other.get_xdata(), [1, 10, 100])
            numpy.testing.assert_array_equal(other.get_ydata(), values[4:7])
        self.assertEqual([panel.get_title() for panel in axes[:4]], ["efficacy (ES)", "paraphrase (PS)", "neighbourhood (NS)", "perplexity"])
        plotting.plt.close("all")

    def test_a_page_of_all(self):
        for name, text in (("a/x 10.png", ""), ("a/x 2.png", ""), ("t.csv", "a,b\n1,<2>\n"), ("n.txt", "a & b"), ("model/config.json", "{}"),
                           ("model/merges.txt", "#version")):
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(name), "w") as file:
                file.write(text)
        self.run_script("contact_sheet.py", self.folder.name, "--title", "<All>")
        with open(self.path("index.html"), encoding="utf-8") as file:
            page = file.read()
        for part in ('<img src="a/x%2010.png"', "<td>&lt;2&gt;</td>", "<pre>a &amp; b</pre>", "<title>&lt;All&gt;</title>"):
            self.assertIn(part, page)
        self.assertLess(page.index("x%202.png"), page.index("x%2010.png"))
        self.assertNotIn("merges.txt", page)


class Text(unittest.TestCase):
    def test_what_cannot_be_seen_is_escaped(self):
        self.assertEqual(plotting.visible("a\n\t\x07\u00a0\u200b\u202eb c\u3000"), "a\\n\\t\\x07\\xa0\\u200b\\u202eb c\u3000")

    def test_right_to_left(self):
        self.assertEqual(plotting.visual("in \u05d0\u05d1 12 \u05d2, so"), "in \u05d2 12 \u05d1\u05d0, so")
        self.assertEqual(plotting.visual("plain (text)"), "plain (text)")

    def test_titles_fit(self):
        for text in ("word " * 100, "w" * 300, "short", ""):
            figure = plotting.plt.figure(figsize=(3, 1), dpi=100)
            plotting.set_title(figure, [text])
            box = figure._suptitle.get_window_extent(figure.canvas.get_renderer())
            self.assertLessEqual(box.width, 300)
            self.assertLessEqual(figure._suptitle.get_text().count("\n"), 5)
            plotting.plt.close(figure)

    def test_formulas_are_text(self):
        figure = plotting.plt.figure()
        for text in ("$$", "$x^2$", "\\frac{", "a_b $", "100 %"):
            self.assertEqual(figure.text(0, 0, text).get_text(), plotting.label(text))
        figure.canvas.draw()


if __name__ == "__main__":
    unittest.main()
