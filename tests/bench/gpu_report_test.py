#!/usr/bin/python3
"""What bench/gpu_report.py makes of programs that crash, hang or spoil the device for what follows in their process."""
import argparse
import importlib.util
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest

import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench"))
import gpu_report  # noqa: E402

# Stands in for a GoogleTest program: the tests say by their names what happens.
TESTS = """#!/usr/bin/env python3
import os, sys, time
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
wanted, _, done = open(flags["gtest_flagfile"]).read().strip().removeprefix("--gtest_filter=").partition("-")
names = [name for name in wanted.split(":") if name not in done.split(":")]
spoiled = False
for name in names:
    print(f"[ RUN      ] {name}", flush=True)
    if "Crash" in name:
        os._exit(139)
    if "Hang" in name:
        time.sleep(60)
    spoiled |= "Spoil" in name
    if spoiled:
        print("softmax: CUDA says an illegal memory access was encountered")
    failed = spoiled or "Wrong" in name
    print(f"[  FAILED  ] {name}, where GetParam() = 4 (1 ms)" if failed else f"[  SKIPPED ] {name} (0 ms)" if "Skip" in name else
          f"[       OK ] {name} (1 ms)")
print("[  FAILED  ] 1 test, listed below:")
sys.exit(1 if spoiled or any("Wrong" in name for name in names) else 0)
"""

BENCHMARKS = """#!/usr/bin/env python3
import json, os, re, sys
flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
names = [f"{name}/iterations:1/manual_time" for name in ("gemm/8x8", "gemm/crash", "rows/8x8", "rows/spoil", "adam/8")]
names = [name for name in names if re.search(flags.get("benchmark_filter", ""), name)]
if "benchmark_list_tests" in flags:
    print("\\n".join(names))
    sys.exit(0)
out = open(flags["benchmark_out"], "w")
out.write('{"context": {"commit": "c", "device": "d", "ceiling_GFLOP/s": "1", "ceiling_GB/s": "2"}, "benchmarks": [')
spoiled, separator = False, ""
for name in names:
    if "crash" in name:
        out.flush()
        os._exit(134)
    spoiled |= "spoil" in name
    row = {"name": name, "real_time": 1.5}
    if spoiled:
        row |= {"error_occurred": True, "error_message": "CUDA says an illegal memory access was encountered"}
    out.write(separator + json.dumps(row))
    separator = ","
out.write("]}")
out.close()
sys.exit(1 if spoiled else 0)
"""


def runs_sleep(process):
    try:
        return "sleep" in gpu_report.read(f"/proc/{process}/cmdline")
    except OSError:
        return False


class GpuReport(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        begin = time.time()
        subprocess.run([sys.executable, "-c", "import json"], check=True)
        cls.second = max(1, 10 * (time.time() - begin))  # programs start slowly on a busy machine

    def setUp(self):
        self.addCleanup(setattr, gpu_report, "LEAST_SECONDS", gpu_report.LEAST_SECONDS)
        gpu_report.LEAST_SECONDS = 0.3
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.program("tests/kernels/kernels_tests", TESTS)
        self.program("bench/kernels_bench", BENCHMARKS)
        self.report = self.new_report()

    def new_report(self, **changed):
        arguments = dict(device="cpu", precisions="fp32", chosen_precisions="fp32", work=self.path("work"), bundle=None,
                         build=self.folder.name, emulated=False, smoke=True, output=self.path("report.json"), merge=[], time_limit=0,
                         golden=None, shape="xl", steps=None, afresh=False)
        report = gpu_report.Report(argparse.Namespace(**arguments | changed))
        report.log = io.StringIO()
        return report

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def program(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as out:
            out.write(text)
        os.chmod(self.path(name), stat.S_IRWXU)

    def run_tests(self, *names):
        return self.report.one_test_program("kernels_tests", "fp32", list(names))

    def test_all_pass(self):
        outcome = self.run_tests("A.Good", "A.Skip", "B.Good/0")
        self.assertEqual((outcome["passed"], outcome["skipped"], outcome["failed"]), (2, 1, []))
        self.assertNotIn("output", outcome)

    def test_a_wrong_result_spoils_nothing(self):
        outcome = self.run_tests("A.Wrong/0", "A.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (1, ["A.Wrong/0"]))

    def test_a_crash_is_one_failed_test(self):
        outcome = self.run_tests("A.Good", "A.Crash", "B.Good", "B.Crash", "C.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (3, ["A.Crash", "B.Crash"]))

    def test_a_hang_is_one_failed_test(self):
        limit = gpu_report.LIMITS["tests"]
        self.addCleanup(gpu_report.LIMITS.update, tests=limit)
        gpu_report.LIMITS["tests"] = 1.5 * self.second
        outcome = self.run_tests("A.Good", "A.Hang", "B.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (2, ["A.Hang"]))

    def test_what_follows_a_device_error_runs_in_another_process(self):
        outcome = self.run_tests("A.Good", "A.Spoil", "B.Good", "B.Wrong", "C.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (3, ["A.Spoil", "B.Wrong"]))
        self.assertIn("illegal memory access", outcome["output"])

    def test_a_library_is_often_the_first_to_notice(self):
        self.program("tests/kernels/kernels_tests", TESTS.replace("softmax: CUDA says an illegal memory access was encountered",
                                                                  "product: cuBLAS says CUBLAS_STATUS_EXECUTION_FAILED"))
        outcome = self.run_tests("A.Spoil", "B.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (1, ["A.Spoil"]))

    def test_what_was_found_before_its_share_was_spent_stays(self):
        self.report.step_ends = time.time() + 1.5 * self.second
        outcome = self.run_tests("A.Good", "A.Hang", "B.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (1, [gpu_report.NOT_RUN]))
        self.assertIn("--time-limit", outcome["unfinished"])

    def test_an_earlier_result_stays_where_there_is_no_time(self):
        self.report.steps = {"kernels": {"status": "ok", "fp32": {"rows": [{"name": "gemm/1x1", "milliseconds": 1}]}}}
        self.assertTrue(self.report.execute("ctest", share=0))  # skipped
        self.assertFalse(self.report.execute("embedded", share=0))
        self.assertEqual(self.report.steps["embedded"]["status"], "unfinished")
        self.report.golden_folder = lambda: "."
        self.report.steps["golden"] = {"status": "failed", "reason": "an error"}
        self.assertFalse(self.report.execute("golden", share=0))
        self.assertEqual(self.report.steps["golden"]["reason"], "an error")
        self.assertEqual(self.report.steps["kernels"]["fp32"]["rows"][0]["name"], "gemm/1x1")

    def replace_steps(self, **steps):
        """Runs these instead of the real ones; each is given the report."""
        self.addCleanup(setattr, gpu_report, "STEPS", gpu_report.STEPS)
        gpu_report.STEPS = tuple(steps)
        for name, step in steps.items():
            self.addCleanup(setattr, gpu_report.Report, name, getattr(gpu_report.Report, name))
            setattr(gpu_report.Report, name, step)

    def test_a_step_that_overruns_its_share_is_stopped_and_the_rest_goes_on(self):
        def overrun(report):
            code, _ = report.run(["sleep", "60"], 100)
            raise (gpu_report.Unfinished if report.out_of_time(code) else gpu_report.Failure)("it slept")
        self.replace_steps(embedded=lambda report: {}, precision=overrun, kernels=lambda report: {})
        begin, report = time.time(), self.new_report(time_limit=4 * self.second)
        self.assertEqual(report.main(), 1)
        self.assertLess(time.time() - begin, 4 * self.second)
        self.assertEqual({name: step["status"] for name, step in report.steps.items()},
                         {"embedded": "ok", "precision": "unfinished", "kernels": "ok"})

    def test_shares_divide_the_time_that_is_left(self):
        report, names = self.new_report(time_limit=100), ["embedded", "tests", "kernels"]
        self.assertAlmostEqual(report.share("kernels", names), 100, delta=1)
        parts = gpu_report.SHARES
        self.assertAlmostEqual(report.share("embedded", names), 100 * parts["embedded"] / sum(parts[n] for n in names), delta=1)
        report.begin -= 200
        self.assertEqual(report.share("embedded", names), 0)

    def test_a_rerun_takes_what_failed_or_is_missing(self):
        ran = []

        def step(name, fails=False):
            def run(report):
                ran.append(name)
                if fails:
                    raise gpu_report.Failure("it fails", {"half": 1})
                return {}
            return run
        self.replace_steps(embedded=step("embedded"), precision=step("precision", fails=True), kernels=step("kernels"))
        self.assertEqual(self.new_report().main(), 1)
        self.replace_steps(embedded=step("embedded"), precision=step("precision"), kernels=step("kernels"), tests=step("tests"))
        report = self.new_report()
        self.assertEqual(report.earlier("precision")["half"], 1)
        self.assertEqual(report.main(), 0)
        self.assertEqual(ran, ["embedded", "precision", "kernels", "precision", "tests"])
        other = self.new_report(output=self.path("other.json"), merge=[self.path("report.json")])
        self.assertEqual(other.wanted(), [])
        self.assertEqual(len(self.new_report(afresh=True).wanted()), 4)
        self.assertEqual(self.new_report(steps="kernels").wanted(), ["kernels"])
        of_a_gpu = json.loads(gpu_report.read(self.path("report.json"))) | {"smoke": False, "machine": {"card": "H200"}}
        with open(self.path("gpu.json"), "w") as out:
            json.dump(of_a_gpu, out)
        self.assertEqual(len(self.new_report(output=self.path("third.json"), merge=[self.path("gpu.json")]).wanted()), 4)

    def test_a_rerun_keeps_the_tests_and_benchmarks_that_ran(self):
        good, bad = {"passed": 1, "skipped": 0, "failed": []}, {"passed": 1, "skipped": 0, "failed": ["A.Good"]}
        self.report.done_here = {"tests": {"programs": {"fine_tests fp32": good, "kernels_tests fp32": bad}},
                                 "kernels": {"fp32": {"rows": [{"name": "gemm/8x8", "milliseconds": 7}, {"name": "adam/8", "error": "e"}]}}}
        self.report.test_programs = lambda: {"fine_tests": {"fp32": ["X.Y"]}, "kernels_tests": {"fp32": ["A.Good"]}}
        self.assertEqual(self.report.tests()["programs"]["fine_tests fp32"], good)
        self.program("bench/kernels_bench", BENCHMARKS.replace('"gemm/crash", "rows/8x8", "rows/spoil", ', ""))
        rows = {row["name"]: row["milliseconds"] for row in self.report.kernels()["fp32"]["rows"]}
        self.assertEqual(rows, {"gemm/8x8": 7, "adam/8": 1.5})

    def test_without_a_gpu_nothing_is_built(self):
        if gpu_report.Report.describe_machine(argparse.Namespace(device="cuda", a=self.report.a))["card"] != "none":
            self.skipTest("there is a GPU")
        report = self.new_report(device="cuda", build=None, smoke=False)
        report.execute = lambda *_: self.fail("a step ran")
        self.assertEqual(report.main(), 2)

    def test_what_it_started_ends_with_it(self):
        script = self.path("child.sh")
        with open(script, "w") as out:
            out.write("sleep 61.25 & echo $! >%s; wait\n" % self.path("pid"))
        code = f"""
import sys; sys.path.insert(0, {os.path.dirname(gpu_report.__file__)!r}); import gpu_report
gpu_report.STEPS = ("embedded",)
gpu_report.Report.embedded = lambda report: report.run(["bash", {script!r}], 100)
sys.argv = ["gpu_report.sh", "--smoke", "--build", {self.folder.name!r}, "--output", {self.path("ended.json")!r}]
gpu_report.main()"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (os.path.exists(self.path("pid")) and gpu_report.read(self.path("pid")).strip()):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        self.assertIn("SIGTERM", process.communicate(timeout=20)[1])
        self.assertEqual(process.returncode, 1)
        child, waited = gpu_report.read(self.path("pid")).strip(), time.time() + 20
        while runs_sleep(child) and time.time() < waited:
            time.sleep(0.05)
        self.assertFalse(runs_sleep(child))
        self.assertIn("SIGTERM", json.loads(gpu_report.read(self.path("ended.json")))["steps"]["embedded"]["reason"])

    def test_benchmarks_that_take_too_long_are_unfinished_not_wrong(self):
        self.addCleanup(gpu_report.LIMITS.update, kernels=gpu_report.LIMITS["kernels"])
        gpu_report.LIMITS["kernels"] = 1.5 * self.second
        self.program("bench/kernels_bench", BENCHMARKS.replace("os._exit(134)", "__import__('time').sleep(60)"))
        found = self.report.kernels_in("fp32")
        self.assertEqual([row["name"] for row in found["rows"]], ["gemm/8x8"])
        self.assertIn("4 benchmarks were left", found["unfinished"])
        with self.assertRaises(gpu_report.Failure):
            self.report.kernels()

    def test_a_program_that_does_not_start_fails(self):
        self.program("tests/kernels/kernels_tests", "#!/bin/sh\nexit 127\n")
        self.assertEqual(self.run_tests("A.Good")["failed"], ["the program itself"])

    def test_many_crashes_end(self):
        names = [f"A.Crash/{i}" for i in range(2 * gpu_report.MOST_PROCESSES)]
        self.assertEqual(len(self.run_tests(*names)["failed"]), gpu_report.MOST_PROCESSES)

    def test_benchmarks_after_a_crash_and_a_device_error_are_measured(self):
        found = self.report.kernels_in("fp32")
        self.assertEqual([row["name"] for row in found["rows"]], ["gemm/8x8", "gemm/crash", "rows/8x8", "rows/spoil", "adam/8"])
        self.assertEqual([row["name"] for row in found["rows"] if "error" in row], ["gemm/crash", "rows/spoil"])
        with self.assertRaises(gpu_report.Failure) as raised:
            self.report.kernels()
        self.assertIn("gemm/crash", str(raised.exception))


class WithoutH5py(unittest.TestCase):
    """bench/without_h5py reads what h5py reads."""

    def setUp(self):
        try:
            import h5py
        except ImportError:
            self.skipTest("h5py is not there to compare with")
        path = os.path.join(os.path.dirname(gpu_report.__file__), "without_h5py/h5py.py")
        spec = importlib.util.spec_from_file_location("small_h5py", path)
        self.whole, self.small = h5py, importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.small)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "a.h5")
        with h5py.File(self.path, "w") as file:
            for kind in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
                file[f"numbers/{kind}"] = numpy.arange(6).reshape(2, 3).astype(kind)
            file["numbers/scalar"], file["numbers/none"] = 1.5, numpy.zeros((0, 3))
            file.create_dataset("numbers/deflated", data=numpy.arange(1000.0), chunks=(100,), compression="gzip", shuffle=True)
            file["texts/many"] = numpy.array(["Rom", "東京", ""], dtype=h5py.string_dtype())
            file["texts/one"], file["texts/bytes"] = "東京", numpy.array([b"ab", b"c"])
            for name, value in {"integer": 3, "decimal": 0.1, "text": "東京", "bytes": numpy.bytes_("ab"), "integers": [1, 2],
                                "texts": numpy.array(["a", "b"], dtype=h5py.string_dtype())}.items():
                file["texts"].attrs[name] = value

    def same(self, a, b):
        self.assertEqual(type(a), type(b))
        a, b = numpy.asarray(a), numpy.asarray(b)
        self.assertEqual((a.dtype, a.shape, a.tolist()), (b.dtype, b.shape, b.tolist()))

    def test_everything_is_the_same(self):
        with self.whole.File(self.path) as a, self.small.File(self.path) as b:
            items = {"": a}, {"": b}
            for file, found in zip((a, b), items):
                file.visititems(lambda path, item, found=found: found.update({path: item}))
            self.assertEqual(sorted(items[0]), sorted(items[1]))
            self.assertGreater(len(items[0]), 15)
            for path, item in items[0].items():
                other = items[1][path]
                self.assertEqual(isinstance(item, self.whole.Dataset), isinstance(other, self.small.Dataset))
                if isinstance(item, self.whole.Dataset):
                    self.same(item[()], other[()])
                self.assertEqual(sorted(item.attrs), sorted(other.attrs))
                for name in item.attrs:
                    self.same(item.attrs[name], other.attrs[name])

    def test_slices_names_and_what_is_missing(self):
        with self.small.File(self.path) as file:
            self.assertEqual(file["numbers/f8"][:, :2].tolist(), [[0, 1], [3, 4]])
            self.assertEqual(file["numbers"]["i4"].shape, (2, 3))
            self.assertTrue("numbers/f8" in file and "numbers/f9" not in file and "none/of/it" not in file)
            self.assertEqual(sorted(file.keys()), ["numbers", "texts"])
            self.assertIsNone(file["texts"].attrs.get("missing"))
            with self.assertRaises(KeyError):
                file["missing"]
        with self.assertRaises(OSError):
            self.small.File(self.path + "x")


if __name__ == "__main__":
    unittest.main()
