#!/usr/bin/python3
"""The Python package on results that the command itself makes of the embedded model.    package_test.py SOURCE_DIR LOCI

Exits with 77 (skipped) where this Python has no h5py.
"""
import base64
import html
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
import unittest
import unittest.mock
import zlib

SOURCE, LOCI = map(os.path.abspath, sys.argv[1:3])
del sys.argv[1:3]
sys.path.insert(0, os.path.join(SOURCE, "python"))
try:
    import h5py
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
import loci  # noqa: E402
from loci import jobs  # noqa: E402
from loci.report import page, write  # noqa: E402

os.environ.update(LOCI=LOCI, LOCI_DEVICE="cpu")
MODEL = os.path.join(SOURCE, "data/model")
WORLD = os.path.join(SOURCE, "data/world")
FOLDER = tempfile.TemporaryDirectory()
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
said = []  # by the commands that made the results


def path(name):
    return os.path.join(FOLDER.name, name)


def world(name):
    return os.path.join(WORLD, name)


def setUpModule():
    """One small result of every kind."""
    with open(world("known_facts.json"), encoding="utf-8") as file:
        facts = json.load(file)
    with open(path("text.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{fact['prompt']} {fact['attribute']}.\n" for fact in facts)
    hparams = path("hparams")
    os.mkdir(hparams)
    shutil.copy(world("hparams.json"), os.path.join(hparams, "rome.json"))
    with open(os.path.join(hparams, "ft.json"), "w", encoding="utf-8") as file:
        file.write('{"layers": [0]}')
    method = {"cov": path("cov.h5"), "hparams": world("hparams.json"), "context_templates": world("context_templates.json")}
    records = {"dataset": "counterfact", "records": world("records_tune.json"), "limit": 2}
    run = lambda *words, **options: loci.run(*words, progress=said.append, **options).close()  # noqa: E731
    run("cov", MODEL, text=path("text.txt"), layers=[0], max_tokens=5000, output=path("cov.h5"))
    run("trace", MODEL, facts=world("known_facts.json"), limit=3, window=1, samples=3, sever=["mlp", "attn"], output=path("trace.h5"))
    run("edit", MODEL, requests=world("demo_request.json"), output=path("edits.h5"), **method)
    run("edit", MODEL, requests=world("records_tune.json"), limit=1, method="ft", layer=0, output=path("updates.h5"))
    run("eval", MODEL, output=path("eval.h5"), **records, **method)
    run("eval", MODEL, output=path("plain.h5"), **records)
    run("eval", MODEL, output=path("comparison.h5"), methods=["rome", "ft"], edits_at=[1, 2], sequential=True, **records,
        **{**method, "hparams": hparams})
    run("tokenize", MODEL, text=path("text.txt"), output=path("tokens.h5"))


def tearDownModule():
    FOLDER.cleanup()


def edited_copy(name, change):
    """A copy of a result after `change(file)`."""
    copy = path(f"changed_{name}")
    shutil.copy(path(name), copy)
    with h5py.File(copy, "a") as file:
        change(file)
    return copy


class Results(unittest.TestCase):
    def open(self, name, kind=None):
        result = loci.open(path(name), kind)
        self.addCleanup(result.close)
        return result

    def fails(self, message, call, *arguments):
        with self.assertRaises(loci.LociError) as failure:
            call(*arguments)
        self.assertIn(message, str(failure.exception))
        self.assertNotIn("\n", str(failure.exception))
        return failure.exception

    def test_every_kind_opens_as_its_class_and_its_checksums_hold(self):
        for name, kind in (("trace", loci.Trace), ("edits", loci.Edits), ("updates", loci.Edits), ("eval", loci.Evaluation),
                           ("plain", loci.Evaluation), ("comparison", loci.Comparison), ("cov", loci.SecondMoments),
                           ("tokens", loci.Tokens)):
            with self.subTest(name):
                result = self.open(f"{name}.h5")
                self.assertIs(type(result), kind)
                with h5py.File(path(f"{name}.h5")) as file:
                    self.assertEqual(result.verify(), len(file["checksums/path"]))
                    self.assertEqual(result.config, json.loads(file.attrs["config"]))
                    self.assertEqual(result.inputs, json.loads(file.attrs["inputs"]))
                    self.assertEqual(result.provenance["git_commit"], file.attrs["git_commit"])
                self.assertGreater(result.verify(), 0)
                self.assertEqual(len({len(column) for column in result.table().values()}), 1)

    def test_a_training_opens(self):
        with h5py.File(path("training.h5"), "w") as file:
            file.attrs.update(kind="training", step=7, tokens=900, identity='{"steps": 7}')
        result = self.open("training.h5")
        self.assertEqual((type(result), result.step, result.tokens, result.config), (loci.Training, 7, 900, {"steps": 7}))
        self.assertEqual(result.verify(), 0)

    def test_a_trace_holds_the_numbers_of_the_file(self):
        trace = self.open("trace.h5", "trace")
        with h5py.File(path("trace.h5")) as file:
            self.assertEqual([fact.name for fact in trace.facts], sorted(file["facts"], key=lambda n: file["facts"][n].attrs["record"]))
            self.assertEqual([fact.traced for fact in trace.facts], [bool(file["facts"][f.name].attrs["correct_prediction"]) for f in trace.facts])
            fact, group = trace.fact(1), file["facts/1"]
            self.assertEqual((fact.prompt, fact.subject, fact.low_score), tuple(group.attrs[n] for n in ("prompt", "subject", "low_score")))
            self.assertEqual(fact.tokens, list(group["input_tokens"].asstr()))
            for kind in ("state", "mlp", "attn"):
                np.testing.assert_array_equal(fact.scores(kind), group[f"scores_{kind}"][:])
                np.testing.assert_array_equal(trace.averages[kind].indirect_effect, file[f"averages/{kind}/indirect_effect"][:])
            np.testing.assert_array_equal(fact.severed["no_mlp"], group["severed/no_mlp"][0])
            np.testing.assert_array_equal(trace.severed.effects["ordinary"], file["averages/severed/ordinary"][:])
            cells = trace.cells()
            of_fact = [score for name, kind, score in zip(cells["known_id"], cells["kind"], cells["score"]) if name == 1 and kind == "mlp"]
            np.testing.assert_array_equal(np.array(of_fact, np.float32), group["scores_mlp"][:].ravel())
        self.assertEqual(trace.layers, 5)
        self.fails("there is no fact 99", trace.fact, 99)

    def test_edits_and_updates_hold_the_numbers_of_the_file(self):
        edits = self.open("edits.h5")
        with h5py.File(path("edits.h5")) as file:
            group = file["edits/0"]
            np.testing.assert_array_equal(edits[0].update(), np.outer(group["u"][:], group["v"][:]))
            np.testing.assert_array_equal(edits[0].loss_curve["kl"], group["loss_curve"][:, list(group["loss_curve"].attrs["columns"]).index("kl")])
            self.assertEqual(edits[0].probability("new", "after"), group.attrs["probability_new_after"])
            self.assertEqual(edits[0].most_likely("before"), group.attrs["most_likely_before"])
        self.assertEqual((len(edits), edits[0].prompt), (1, "The city of Geneva belongs to the country of"))
        self.assertEqual(edits.updates, [])
        with self.assertRaises(IndexError):
            edits[1]
        updates = self.open("updates.h5")
        with h5py.File(path("updates.h5")) as file:
            group = file["updates/0"]
            self.assertEqual(updates.updates[0].parameter, group.attrs["parameter"])
            self.assertEqual(list(updates.updates[0].delta().shape), list(group.attrs["shape"]))
            whole = group["delta"][:] if "delta" in group else group["left"][:] @ group["right"][:].T
            self.assertAlmostEqual(float(np.abs(updates.updates[0].delta()).sum()), float(np.abs(whole).sum()), places=3)
        self.fails("field /edits/0/u is missing", updates[0].update)

    def test_an_update_of_some_rows_is_zero_elsewhere(self):
        with h5py.File(path("rows.h5"), "w") as file:
            file.attrs["kind"] = "edits"
            group = file.create_group("updates/0")
            group.attrs["shape"] = [4, 2]
            group["rows"], group["delta"] = [1, 3], [[1.0, 2.0], [3.0, 4.0]]
            factors = file.create_group("updates/1")
            factors["left"], factors["right"] = [[1.0], [2.0]], [[3.0], [5.0], [7.0]]
        rows, factors = self.open("rows.h5").updates
        np.testing.assert_array_equal(rows.delta(), [[0, 0], [1, 2], [0, 0], [3, 4]])
        np.testing.assert_array_equal(factors.delta(), [[3, 5, 7], [6, 10, 14]])

    def test_an_evaluation_gives_the_metrics_of_the_file(self):
        evaluation = self.open("eval.h5")
        with h5py.File(path("eval.h5")) as file:
            for table in evaluation.TABLES:
                for name, column in evaluation.columns(table).items():
                    text = h5py.check_string_dtype(file[table][name].dtype)
                    np.testing.assert_array_equal(column, file[table][name].asstr()[:] if text else file[table][name][:])
            first = evaluation.case(0)
            target = first.prompts[0].targets[0]
            self.assertEqual(first.case_id, file["records/case_id"][0])
            self.assertAlmostEqual(target.after, math.exp(-file["targets/nll_after"][0]))
            self.assertEqual(sum(len(evaluation.case(i).prompts) for i in range(len(evaluation))), len(file["prompts/text"]))
            summary = dict(zip(file["summary/name"].asstr(), file["summary/after"]))
        rewrites = [evaluation.case(i).prompts[0].targets for i in range(len(evaluation))]
        self.assertAlmostEqual(np.mean([new.after - true.after for new, true in rewrites]), summary["EM"])
        self.assertAlmostEqual(np.mean([new.said_after for new, _ in rewrites]), summary["reliability"])
        plain = self.open("plain.h5")
        self.assertEqual((evaluation.edited, plain.edited, plain.case(1).prompts[0].targets[0].after), (True, False, None))
        self.fails("there is no table no", evaluation.columns, "no")

    def test_comparisons_moments_and_tokens_hold_the_numbers_of_the_file(self):
        comparison, moments, tokens = self.open("comparison.h5"), self.open("cov.h5"), self.open("tokens.h5")
        with h5py.File(path("comparison.h5")) as file:
            for name in ("mean", "interval", "values", "retention"):
                np.testing.assert_array_equal(getattr(comparison, name), file[name][:])
            self.assertEqual((comparison.methods, list(comparison.edits_at)), (["rome", "ft"], [1, 2]))
            np.testing.assert_array_equal(comparison.table()["PS_interval"], file["interval"][:, list(file["metrics/name"].asstr()).index("PS")])
        with h5py.File(path("cov.h5")) as file:
            self.assertEqual((moments.layers, moments.tokens), ([0], file.attrs["tokens"]))
            np.testing.assert_array_equal(moments.mean(0), file["layers/0/sum"][:] / file.attrs["tokens"])
            self.fails("field /layers/0/eigenvalues is missing", moments.eigenvalues, 0)
        with h5py.File(path("tokens.h5")) as file:
            offsets = file["document_offsets"][:]
            np.testing.assert_array_equal(tokens.document(3), file["tokens"][offsets[3]:offsets[4]])
            self.assertEqual(len(tokens), len(offsets) - 1)
        with self.assertRaises(IndexError):
            tokens.document(len(tokens))

    def test_wrong_and_damaged_files_are_named(self):
        self.fails("absent.h5: cannot be read", loci.open, path("absent.h5"))
        self.fails("text.txt: cannot be read", loci.open, path("text.txt"))
        self.fails("is not a result file of loci edit", loci.open, path("trace.h5"), "edits")
        self.fails("its attribute kind is 'soup'", loci.open, edited_copy("trace.h5", lambda f: f.attrs.update(kind="soup")))
        self.fails("was written by a newer loci (its format is 2", loci.open, edited_copy("trace.h5", lambda f: f.attrs.update(format=2)))

        def change_one(file):
            file["facts/1/scores_mlp"][2, 1] += 0.25
        with loci.open(edited_copy("trace.h5", change_one)) as changed:
            self.fails("/facts/1/scores_mlp does not hold what was written", changed.verify)
        with loci.open(edited_copy("trace.h5", lambda f: f["facts/1"].attrs.update(subject="Nobody"))) as changed:
            self.fails("/facts/1 does not hold what was written", changed.verify)
        with loci.open(edited_copy("trace.h5", lambda f: f.pop("facts/1/scores_mlp"))) as changed:
            self.fails("changed_trace.h5: field /facts/1/scores_mlp is missing", changed.fact(1).scores, "mlp")

    def test_frames(self):
        trace = self.open("trace.h5")
        try:
            import pandas  # noqa: F401
        except ImportError:
            self.fails("needs pandas", trace.frame)
            self.skipTest("pandas is missing")
        self.assertEqual(list(trace.frame()["prompt"]), [fact.prompt for fact in trace.facts])
        self.assertEqual(len(trace.cell_frame()), sum(fact.scores(kind).size for fact in trace.facts for kind in fact.kinds))


class Jobs(unittest.TestCase):
    def test_options_become_words(self):
        self.assertEqual(jobs.command_line("trace", "m", facts="f", noise_seed=2, replace=True, overwrite=False, limit=None, sever=["mlp", "attn"],
                                           prompt=["a", "-b"]),
                         ["trace", "--facts=f", "--noise-seed=2", "--replace", "--sever=mlp,attn", "--prompt=a", "--prompt=-b", "--", "m"])

    def test_messages_come_as_they_are_said(self):
        self.assertTrue(any(line.startswith("info: trace: 3 facts done") for line in said), said)

    def test_messages_reach_a_notebook(self):
        shown = []
        display = types.ModuleType("IPython.display")
        display.display = lambda item, display_id: types.SimpleNamespace(update=lambda line: shown.append(repr(line)))
        shell = types.ModuleType("IPython")
        shell.get_ipython = lambda: types.SimpleNamespace(kernel=True)
        with unittest.mock.patch.dict(sys.modules, {"IPython": shell, "IPython.display": display}):
            show, close = jobs.reporter(True)
            for line in ("info: trace: noise", "info: trace: 1 of 9 facts", "info: trace: 2 of 9 facts"):
                show(line)
            close()
        self.assertEqual(shown, ["info: trace: noise", "info: trace: noise\ninfo: trace: 1 of 9 facts",
                                 "info: trace: noise\ninfo: trace: 2 of 9 facts", "info: trace: noise"])

    def test_errors_are_the_commands_own(self):
        with self.assertRaises(loci.LociError) as failure:
            loci.run("trace", path("no_model"), facts=world("known_facts.json"), output=path("never.h5"), progress=False)
        run = subprocess.run([LOCI, "trace", path("no_model"), "--facts", world("known_facts.json"), "--output", path("never.h5")],
                             capture_output=True, text=True)
        self.assertEqual((f"error: {failure.exception}", failure.exception.code), (run.stderr.strip(), run.returncode))
        self.assertEqual(failure.exception.code, 2)

    def test_nothing_traced_is_a_result(self):
        with loci.run("trace", MODEL, prompt="The capital of Ukraine is", subject="Ukraine", attribute="soup", output=path("untraced.h5"),
                      samples=1, progress=False) as trace:
            self.assertEqual([fact.traced for fact in trace.facts], [False])

    def test_an_interrupt_ends_the_command(self):
        def interrupt(line):
            raise KeyboardInterrupt
        begin = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            jobs.execute(jobs.command_line("trace", MODEL, facts=world("known_facts.json"), output=path("long.h5"), samples=100), interrupt)
        self.assertLess(time.monotonic() - begin, 10)

    def test_commands_that_answer_at_once(self):
        answers = loci.predict(MODEL, ["The capital of Ukraine is", "Paris is in"], top=3)
        self.assertEqual([(a["prompt"], len(a["tokens"])) for a in answers], [("The capital of Ukraine is", 3), ("Paris is in", 3)])
        self.assertEqual(loci.tokenize(MODEL, "The capital")[0]["tokens"][1], {"begin": 3, "end": 11, "id": 370, "text": " capital"})
        self.assertLessEqual(len(loci.generate(MODEL, "The", max_tokens=4)[0]["samples"][0]["tokens"]), 4)
        self.assertEqual(loci.info(MODEL)["layers"], 5)

    def test_the_program_is_looked_for(self):
        with unittest.mock.patch.dict(os.environ, LOCI=path("absent")):
            self.assertRaisesRegex(loci.LociError, "absent: is not a program", jobs.find_program)
        tools = path("bin")
        os.mkdir(tools)
        os.symlink(LOCI, os.path.join(tools, "loci"))
        with unittest.mock.patch.dict(os.environ, LOCI="", PATH=tools):
            self.assertEqual(jobs.find_program(), os.path.join(tools, "loci"))


class Scripts(html.parser.HTMLParser):
    """Checks that tags are closed in order; collects the data and whatever the page would load."""

    VOID = {"meta", "input", "br", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.data, self.loads, self.key, self.packed = [], {}, [], None, ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [value for name, value in attributes.items() if name in ("src", "href", "srcset") and not value.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)
        self.key, self.packed = attributes.get("id") if tag == "script" else None, ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        if self.key:
            self.data[self.key[len("data-"):]] = json.loads(zlib.decompress(base64.b64decode(self.packed)))
        self.key = None

    def handle_data(self, data):
        if self.key:
            self.packed += data


class Report(unittest.TestCase):
    NAMES = ("trace", "edits", "updates", "eval", "plain", "comparison", "cov", "tokens")

    @classmethod
    def setUpClass(cls):
        cls.output = write([path(f"{name}.h5") for name in cls.NAMES], path("report.html"), "A <report> & more")
        with open(cls.output, encoding="utf-8") as file:
            cls.text = file.read()
        cls.data = Scripts(cls.text).data

    def section(self, name):
        return self.data[str(self.NAMES.index(name))]

    def case(self, name, place):
        return self.data[f"{self.NAMES.index(name)}-0"][place]

    def test_it_stands_alone(self):
        parsed = Scripts(self.text)
        self.assertEqual(parsed.loads, [])
        self.assertNotRegex(self.text, r"https?://|@import|url\(")
        self.assertIn("default-src 'none'", self.text)
        self.assertIn("<title>A &lt;report&gt; &amp; more</title>", self.text)
        self.assertEqual([self.section(name)["title"] for name in self.NAMES][:2], ["Causal traces", "Edits"])
        self.assertFalse(os.path.exists(self.output + ".part"))

    def test_its_numbers_are_those_of_the_files(self):
        with h5py.File(path("trace.h5")) as file:
            state = next(figure for figure in self.case("trace", 1)["figures"] if figure.get("colour") == "state")
            np.testing.assert_array_equal(np.array(state["values"], np.float32).round(6), file["facts/1/scores_state"][:].round(6))
            average = self.section("trace")["figures"][0]
            there = ~np.isnan(file["averages/state/indirect_effect"][:]).all(axis=1)
            np.testing.assert_array_equal(np.array(average["values"]), file["averages/state/indirect_effect"][there])
            severed = self.section("trace")["figures"][-1]
            self.assertEqual(severed["series"][0]["intervals"], file["averages/severed/ordinary_confidence"][:].tolist())
            row = self.data["0-cases"][1]
            effects = file["facts/1/scores_state"][file["facts/1"].attrs["subject_range"][1] - 1] - np.float32(file["facts/1"].attrs["low_score"])
            self.assertAlmostEqual(row[7], float(effects.max()), places=6)
            self.assertEqual(row[8], int(effects.argmax()))
            self.assertEqual([r[4] for r in self.data["0-cases"]], [False, True, True])
        with h5py.File(path("eval.h5")) as file:
            metrics = {row[0]: row for row in self.section("eval")["tables"][0]["rows"]}
            for i, name in enumerate(file["summary/name"].asstr()):
                self.assertEqual(metrics[name][3], [file["summary/after"][i], file["summary/after_interval"][i]])
            cases = self.data[f"{self.NAMES.index('eval')}-cases"]
            columns = [column["name"] for column in self.section("eval")["cases"]["columns"]]
            summary = dict(zip(file["summary/name"].asstr(), file["summary/after"]))
            for name in ("ES", "PS", "NS"):
                self.assertAlmostEqual(np.mean([row[columns.index(f"{name} after")] for row in cases]), summary[name])
            answers = self.case("eval", 0)["tables"][0]["rows"]
            self.assertAlmostEqual(answers[0][3], math.exp(-file["targets/nll_before"][0]))
        with h5py.File(path("edits.h5")) as file:
            answers = self.case("edits", 0)["tables"][0]["rows"]
            self.assertEqual(answers[0][1:], [file["edits/0"].attrs[f"probability_new_{when}"] for when in ("before", "after")])
            self.assertEqual(answers[2][1:], [file["edits/0"].attrs[f"most_likely_{when}"].strip() for when in ("before", "after")])
        with h5py.File(path("comparison.h5")) as file:
            self.assertEqual(self.section("comparison")["tables"][0]["rows"][1][2], [file["mean"][1, 0], file["interval"][1, 0]])
            np.testing.assert_array_equal(self.case("comparison", 1)["tables"][0]["rows"][2][1:], file["values"][2, :, 1])
            self.assertEqual(self.section("comparison")["about"]["Configuration"], json.loads(file.attrs["config"]))

    def test_many_cases_lie_in_chunks(self):
        with unittest.mock.patch.object(page, "CASES_PER_CHUNK", 2):
            write([path("trace.h5")], path("chunks.html"))
        with open(path("chunks.html"), encoding="utf-8") as file:
            data = Scripts(file.read()).data
        self.assertEqual((len(data["0-0"]), len(data["0-1"]), len(data["0-cases"]), data["0"]["cases_per_chunk"]), (2, 1, 3, 2))
        self.assertEqual(data["0-1"][0], self.case("trace", 2))

    def test_an_older_page_stays_where_a_file_is_wrong(self):
        with open(path("old.html"), "w", encoding="utf-8") as file:
            file.write("old")
        unfit = edited_copy("eval.h5", lambda f: f["prompts/kind"].write_direct(np.full(len(f["prompts/kind"]), 9, np.uint8)))
        damaged = edited_copy("trace.h5", lambda f: f["facts/2"].attrs.pop("low_score"))
        for files, message in (([path("trace.h5"), path("absent.h5")], "absent.h5: cannot be read"),
                               ([damaged], "field /facts/2 has no attribute low_score"), ([unfit], "do not fit"), ([], "at least one")):
            with self.assertRaisesRegex(loci.LociError, message):
                write(files, path("old.html"))
        with self.assertRaisesRegex(loci.LociError, "cannot be written"):
            write([path("trace.h5")], path("no_folder/r.html"))
        with open(path("old.html"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "old")
        self.assertFalse(os.path.exists(path("old.html.part")))

    def test_the_command(self):
        environment = {**os.environ, "PYTHONPATH": os.path.join(SOURCE, "python")}
        call = [sys.executable, "-m", "loci.report"]
        done = subprocess.run([*call, path("edits.h5"), "--output", path("c.html")], capture_output=True, text=True, env=environment)
        self.assertEqual((done.returncode, done.stdout.strip(), done.stderr), (0, path("c.html"), ""))
        done = subprocess.run([*call, path("absent.h5"), "--output", path("d.html")], capture_output=True, text=True, env=environment)
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"^loci\.report: .*absent\.h5: cannot be read.*\n$")


# What a reader does: opens all cases, sorts and filters the cases of the trace.
READER = """
main().then(async () => {
  for (const part of document.querySelectorAll("main > section")) {
    for (const button of part.querySelectorAll("button.name[aria-expanded=false]")) button.click();
  }
  const trace = document.querySelector("main > section"), heads = trace.querySelectorAll(".tools ~ .scroll > table > thead th");
  const names = () => [...trace.querySelectorAll(".tools ~ .scroll > table > tbody > tr:not(.detail)")].map((row) => row.firstChild.textContent);
  await new Promise((done) => setTimeout(done, 500));
  heads[5].querySelector("button").click();
  const ascending = [heads[5].getAttribute("aria-sort"), ...names()];
  heads[5].querySelector("button").click();
  const descending = [heads[5].getAttribute("aria-sort"), ...names()];
  const filter = trace.querySelector("input");
  filter.value = "COUNTRY lewis";
  filter.dispatchEvent(new Event("input"));
  await new Promise((done) => setTimeout(done, 300));
  parent.postMessage({ wide: innerWidth, needed: document.documentElement.scrollWidth, ascending, descending, filtered: names(),
    titles: [...trace.querySelectorAll("rect.cell > title")].map((title) => title.textContent), opened: document.querySelectorAll(".case").length,
    failed: document.querySelectorAll(".failed").length, unnamed: [...document.querySelectorAll("button, input, svg[role=img]")].filter((part) =>
      !(part.textContent.trim() || part.ariaLabel || part.labels?.length)).length }, "*");
});
"""
FRAMES = """<!doctype html><pre></pre><script>
const heard = [];
addEventListener("message", (event) => { heard.push(event.data); document.querySelector("pre").textContent = JSON.stringify(heard); });
</script><iframe src="read.html" style="width:1280px;height:900px"></iframe><iframe src="read.html" style="width:390px;height:844px"></iframe>"""


class Browser(unittest.TestCase):
    def test_a_reader_sees_the_numbers_at_any_width(self):
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if browser is None:
            self.skipTest("no Chromium is installed")
        write([path(f"{name}.h5") for name in Report.NAMES], path("report.html"))
        with open(path("report.html"), encoding="utf-8") as file:
            before, after = file.read().rsplit("main();\n", 1)
        for name, text in (("read.html", before + READER + after), ("frames.html", FRAMES)):
            with open(path(name), "w", encoding="utf-8") as file:
                file.write(text)
        run = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
                              f"--user-data-dir={path('browser')}", "--virtual-time-budget=20000", "--dump-dom", f"file://{path('frames.html')}"],
                             capture_output=True, text=True, timeout=120)
        self.assertEqual([line for line in run.stderr.splitlines() if ":CONSOLE" in line], [])
        views = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)[1]))
        self.assertEqual(sorted(view["wide"] for view in views), [390, 1280])
        with loci.open(path("trace.h5")) as trace:
            scores = {fact.name: fact.high_score for fact in trace.facts}
            value = float(f"{trace.fact(1).scores('state')[-1, 2]:.7g}")
            average = float(trace.averages["state"].indirect_effect[-1, 4])
        ordered = sorted(scores, key=scores.get)
        for view in views:
            self.assertLessEqual(view["needed"], view["wide"])
            self.assertEqual((view["ascending"], view["descending"]), (["ascending", *ordered], ["descending", *reversed(ordered)]))
            self.assertEqual(view["filtered"], ["1"])
            self.assertEqual((view["failed"], view["unnamed"]), (0, 0))
            self.assertGreaterEqual(view["opened"], 5)
            self.assertTrue(any(title.startswith(f"last token (n=2), layer 4: {average!r} ±") for title in view["titles"]))
            self.assertIn(f" of, layer 2: {value!r}", [" " + title.strip() for title in view["titles"]])


if __name__ == "__main__":
    unittest.main()
