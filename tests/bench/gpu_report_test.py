#!/usr/bin/python3
"""What bench/gpu_report.py makes of programs that crash, hang or spoil the device for what follows in their process."""
import argparse
import io
import os
import stat
import sys
import tempfile
import unittest

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


class GpuReport(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.program("tests/kernels/kernels_tests", TESTS)
        self.program("bench/kernels_bench", BENCHMARKS)
        self.report = gpu_report.Report(argparse.Namespace(
            device="cpu", precisions="fp32", work=self.path("work"), bundle=None, build=self.folder.name, emulated=False, smoke=True,
            output=self.path("report.json"), merge=[], time_limit=0, golden=None, shape="xl", steps=""))
        self.report.log = io.StringIO()

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
        gpu_report.LIMITS["tests"] = 1.5
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

    def test_what_was_found_before_the_time_ended_stays(self):
        self.report.a.time_limit = 7  # programs are started while 5 seconds are left
        outcome = self.run_tests("A.Good", "A.Hang", "B.Good")
        self.assertEqual((outcome["passed"], outcome["failed"]), (1, ["A.Hang", "the rest, not run"]))
        self.assertIn("--time-limit", outcome["unfinished"])
        self.report.steps = {"kernels": {"status": "ok", "fp32": {"rows": [{"name": "gemm/1x1", "milliseconds": 1}]}}}
        self.assertTrue(self.report.execute("kernels"))
        self.assertEqual(self.report.steps["kernels"]["fp32"]["rows"][0]["name"], "gemm/1x1")

    def test_benchmarks_that_take_too_long_are_unfinished_not_wrong(self):
        self.addCleanup(gpu_report.LIMITS.update, kernels=gpu_report.LIMITS["kernels"])
        gpu_report.LIMITS["kernels"] = 1.5
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


if __name__ == "__main__":
    unittest.main()
