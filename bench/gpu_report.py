"""The work of scripts/gpu_report.sh: builds, tests, checks and measures on a GPU, and writes one JSON report.

A step that fails is recorded and the later ones still run; the exit code is 1 where one failed or did not finish. Every step has
a time limit. Under --time-limit it also has a share of that time; what it leaves is shared among the steps after it. The report
is written again after each step. Steps that an earlier report at the same place, or --merge, has as "ok" are not run again; of the
others only what failed or is missing.
"""
import argparse
import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
STEPS = ("build", "embedded", "golden", "tests", "precision", "comparison", "kernels", "sanitizer", "ctest")
LIMITS = {"build": 3000, "embedded": 200, "golden": 400, "tests": 240, "precision": 300, "comparison": 400, "kernels": 280,
          "sanitizer": 150, "ctest": 3000}
# Parts of --time-limit. A checkout that is built first leaves little for the rest.
SHARES = {"build": 300, "embedded": 8, "golden": 6, "tests": 16, "precision": 14, "comparison": 38, "kernels": 10, "sanitizer": 8,
          "ctest": 20}
LEAST_SECONDS = 3  # that a program is started for
# Products and what is made of them; the other ops do the same in each precision.
PRODUCTS = "^(gemm|linear|linear_gelu|attention|attention_backward|symmetric_update|second_moment)/"
# Hand-written kernels, one sanitizer run each, and the precisions in which they are others.
SANITIZED = {"*Attention*": ("tf32", "bf16", "fp32"), "*Normalise*": ("fp32",), "*Softmax*": ("fp32",), "*Rows*": ("fp32",),
             "*/Gemm.*": ("bf16",), "*ActivationTest*": ("fp32",), "Adam*": ("fp32",), "*Sampling*": ("fp32",),
             "*SymmetricUpdate*:SecondMoment*": ("fp32",)}
TOOLS = ("memcheck", "racecheck", "initcheck")
# What fits in a share of minutes: the kernels with the most intricate addressing, and those whose threads talk to each other.
FEW_SANITIZED = (("memcheck", "*Attention*", "tf32"), ("memcheck", "*/Gemm.*", "bf16"), ("memcheck", "*Softmax*:*Normalise*:*Rows*", "fp32"),
                 ("racecheck", "*Softmax*:*Normalise*", "fp32"), ("racecheck", "*Attention*", "tf32"))
NO_DEVICE = "no CUDA device is usable"  # tests then pass without having run
# After an error of a kernel every later call in its process fails: what follows runs in another one.
DEVICE_ERROR = re.compile(r"(CUDA|cuBLAS|NCCL) says|cuSOLVER fails|cannot be set up on cuda")
NOT_RUN = "the rest, not run"
MOST_PROCESSES = 8  # for the tests of a program, or its benchmarks
TARGETS = {"product": 0.70, "memory": 0.80, "forward": 1.0}


def read(path):
    with open(path) as text:
        return text.read()


class Failure(Exception):
    """A step that failed; `found` goes into the report beside the sentence."""

    def __init__(self, text, found=None):
        super().__init__(text)
        self.found = found or {}


class Unfinished(Failure):
    """A step whose time was over; what it had found until then stays."""


class Skipped(Exception):
    pass


class Ended(BaseException):
    """A signal asked the report to end."""


class Report:
    def __init__(self, arguments):
        self.a, self.device = arguments, arguments.device
        self.steps, self.log, self.begin = {}, None, time.time()
        self.precisions = arguments.precisions.split(",")
        self.work = os.path.abspath(arguments.work or tempfile.mkdtemp(prefix="gpu-report-"))
        os.makedirs(self.work, exist_ok=True)
        self.step_ends = float("inf")
        self.machine = self.describe_machine()
        if arguments.bundle and os.path.isfile(arguments.bundle):
            arguments.bundle = self.unpack(arguments.bundle)
        self.tree = os.path.abspath(arguments.bundle or arguments.build or os.path.join(ROOT, "build/cuda"))
        self.environment = dict(os.environ)
        if arguments.bundle:
            path = subprocess.run([os.path.join(self.tree, "run"), "--library-path"], capture_output=True, text=True)
            self.environment["LD_LIBRARY_PATH"] = path.stdout.strip()
        self.checks_environment = dict(os.environ)
        if not importlib.util.find_spec("h5py"):
            path = [os.path.join(ROOT, "bench/without_h5py"), *filter(None, [os.environ.get("PYTHONPATH")])]
            self.checks_environment["PYTHONPATH"] = os.pathsep.join(path)
            for library in glob.glob(os.path.join(self.tree, "lib/libhdf5_serial.so.*")):
                self.checks_environment["LOCI_HDF5_LIBRARY"] = library
        card = re.sub(r"[^a-z0-9]+", "-", self.machine["card"].lower()).strip("-")
        self.output = os.path.abspath(arguments.output or os.path.join(ROOT, f"bench/results/gpu-{card}.json"))
        os.makedirs(os.path.dirname(self.output), exist_ok=True)
        self.here = {"card": self.machine["card"], "device": self.device, "smoke": arguments.smoke}
        self.done_here = {}  # steps of earlier reports from this card, which need not run again
        for path in [self.output] if os.path.exists(self.output) and not arguments.afresh else []:
            self.take_in(json.loads(read(path)))
        for path in arguments.merge:
            self.take_in(json.loads(read(path)))

    def take_in(self, earlier):
        """The steps of an earlier report, which need not be of this machine."""
        was = {"card": earlier["machine"]["card"], "device": earlier["device"], "smoke": earlier.get("smoke", False)}
        if self.machine["card"] == "none" and not self.a.smoke:
            self.machine, self.device = earlier["machine"], earlier["device"]
        for name, step in earlier["steps"].items():
            if step["status"] != "skipped" or name not in self.steps:
                self.steps[name] = step
                if was == self.here:
                    self.done_here[name] = step

    def unpack(self, archive):
        """The folder that an archive of scripts/bundle.sh holds, unpacked in the work folder."""
        begin = time.time()
        with tarfile.open(archive) as packed:
            name = packed.getnames()[0].split("/")[0]
            packed.extractall(self.work, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        print(f"unpacked {archive} ({time.time() - begin:.0f} s)", flush=True)
        return os.path.join(self.work, name)

    def earlier(self, name):
        """What is known of a step that did not end well: its parts need not all run again."""
        return self.done_here.get(name, {})

    # Running programs

    def program(self, name):
        folders = {"loci": "app", "forward_bench": "bench", "kernels_bench": "bench"}
        folder = folders.get(name) or "tests/" + name.removesuffix("_tests").removesuffix("_emulation")
        if self.a.emulated:
            folder, name = {"loci": ("tests/emulation", "loci_emulated"), "forward_bench": ("bench", "forward_emulation_bench"),
                            "kernels_bench": ("bench", "kernels_emulation_bench")}.get(name, (folder, name))
        return os.path.join(self.tree, "bin" if self.a.bundle else folder, name)

    def left(self, limit):
        """Seconds that a program may take now."""
        left = self.step_ends - time.time()
        if left < LEAST_SECONDS:
            raise Unfinished("its share of --time-limit is spent")
        return min(limit, left)

    def out_of_time(self, code):
        """Whether a program was stopped because the step's share was spent, not because it took too long by itself."""
        return code == "time limit" and self.step_ends - time.time() < LEAST_SECONDS

    def run(self, command, limit, own=False, **environment):
        """(exit code, output) of a program, ended with all that it started after `limit` seconds, or when this script is ended.
        `own`: it is one of ours, which in a bundle needs the bundle's libraries."""
        limit = self.left(limit)
        command = list(map(str, command))
        variables = (self.environment if own else self.checks_environment) | environment
        print(f"  $ {' '.join(command)}", file=self.log, flush=True)
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=variables, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = "time limit"
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            out.seek(0)
            text = out.read()
        print(text, file=self.log, flush=True)
        return code, text

    def script(self, name, precision=None):
        """A script that is one of our programs with its libraries; loci with a precision for checks that know --device alone."""
        path = os.path.join(self.work, name if precision is None else f"{name}-{precision}")
        lines = ["#!/bin/sh"]
        if self.a.bundle:
            lines.append(f"export LD_LIBRARY_PATH='{self.environment['LD_LIBRARY_PATH']}'")
        if precision:
            lines += ['case "$1" in', f"  predict|generate|trace|cov|edit|eval) set -- \"$@\" --precision {precision} ;;", "esac"]
        lines.append(f"exec '{self.program(name)}' \"$@\"")
        with open(path, "w") as out:
            out.write("\n".join(lines) + "\n")
        os.chmod(path, 0o755)
        return path

    def fresh(self, name):
        """The path of an intermediate file that is not there: an earlier run's is no result of this one."""
        path = os.path.join(self.work, name)
        if os.path.exists(path):
            os.remove(path)
        return path

    # What is measured on

    def describe_machine(self):
        def first_line(command):
            try:
                out = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
                return out.splitlines()[-1].strip() if out else ""
            except (OSError, subprocess.TimeoutExpired):
                return ""
        fields = "name,driver_version,memory.total,power.limit,clocks.max.sm,compute_cap"
        card = first_line(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]).split(", ")
        made = dict(zip(("card", "driver", "memory", "power_limit", "max_sm_clock", "compute_capability"), card))
        if not made.get("card") or self.device == "cpu" or self.a.emulated:
            made = {"card": "none"}
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        found = re.search(r"release ([0-9.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
                          if os.path.exists(nvcc) else "")
        cpu = next((x.split(":")[1].strip() for x in read("/proc/cpuinfo").splitlines() if x.startswith("model name")), platform.machine())
        release = dict(x.strip().split("=", 1) for x in read("/etc/os-release").splitlines() if "=" in x)
        return made | {"cuda_toolkit": found.group(1) if found else "none", "cpu": cpu, "cores": len(os.sched_getaffinity(0)),
                       "system": release.get("PRETTY_NAME", "").strip('"'), "kernel": platform.release()}

    # Steps. Each returns what it found, or raises Failure or Skipped.

    def build(self):
        if self.a.bundle or self.a.build:
            raise Skipped(f"programs of {'--bundle' if self.a.bundle else '--build'} are used")
        for command in (["cmake", "--preset", "cuda"], ["cmake", "--build", "--preset", "cuda"]):
            code, text = self.run(command, LIMITS["build"])
            if code != 0:
                raise Failure(f"{' '.join(command)} ended with {code}", {"output": text[-3000:]})
        return {}

    def test_programs(self):
        """{executable: {precision: names}} of the tests labelled gpu."""
        if self.a.smoke:
            program = "kernels_emulation_tests" if self.a.emulated else "kernels_tests"
            return {program: {precision: ["GemmByHand*"] for precision in self.precisions}}
        if self.a.bundle:
            return json.loads(read(os.path.join(self.tree, "tests.json")))
        label = "emulation" if self.a.emulated else "gpu"
        listed = subprocess.run(["ctest", "--test-dir", self.tree, "-L", label, "--show-only=json-v1"], capture_output=True, text=True)
        return list_gpu_tests(json.loads(listed.stdout))

    def tests(self):
        found, bad = {}, []
        before = self.earlier("tests").get("programs", {})
        for program, precisions in self.test_programs().items():
            for precision in (p for p in precisions if p in self.precisions):
                name = f"{program} {precision}"
                fine = name in before and before[name]["passed"] and not before[name]["failed"]
                found[name] = before[name] if fine else self.one_test_program(program, precision, precisions[precision])
                if found[name]["failed"] or not found[name]["passed"]:
                    bad.append(name)
        if bad or not found:
            unfinished = bad and all("unfinished" in found[name] and found[name]["failed"] == [NOT_RUN] for name in bad)
            raise (Unfinished if unfinished else Failure)(
                f"{'unfinished' if unfinished else 'failing'}: {', '.join(bad) or 'there are no tests'}", {"programs": found})
        return {"programs": found}

    def one_test_program(self, program, precision, names):
        """The program's tests. One that ends its process, or spoils the device for it, is a failed one, and those after it run
        in another process."""
        begin, results = time.time(), {}
        outcome = {"passed": 0, "skipped": 0, "failed": []}
        for _ in range(MOST_PROCESSES):
            try:
                code, text = self.run_tests(program, precision, names, list(results))
            except Unfinished as reason:
                outcome["unfinished"] = str(reason)
                break
            made, whole = split_test_output(text)
            if self.out_of_time(code) and made:  # the last one was not given its time
                made.popitem()
            results |= {name: verdict for name, (verdict, _) in made.items()}
            outcome["exit"] = code
            if code != 0:
                outcome["output"] = (outcome.get("output", "") + text)[-3000:]
            if whole or not made:
                break
        for verdict in ("passed", "skipped"):
            outcome[verdict] = sum(v == verdict for v in results.values())
        outcome["failed"] = [name for name, verdict in results.items() if verdict not in ("passed", "skipped")]
        if "unfinished" in outcome:
            outcome["failed"].append(NOT_RUN)
        elif not results or (outcome["exit"] != 0 and not outcome["failed"]):
            outcome["failed"].append("the program itself")
        return outcome | {"seconds": round(time.time() - begin, 1)}

    def run_tests(self, program, precision, names, done):
        flags = os.path.join(self.work, "gtest-flags")
        with open(flags, "w") as out:
            out.write("--gtest_filter=" + ":".join(names) + ("-" + ":".join(done) if done else "") + "\n")
        return self.run([self.program(program), f"--gtest_flagfile={flags}", "--gtest_color=no"], LIMITS["tests"], own=True,
                        LOCI_TEST_DEVICE=self.device, LOCI_TEST_PRECISION=precision, LOCI_TEST_SOURCE=ROOT, **self.shared_variable())

    def shared_variable(self):
        golden = self.golden_folder()
        return {"LOCI_TEST_DATA": os.path.dirname(golden)} if golden else {}

    def golden_folder(self):
        for folder in (self.a.golden, os.path.join(self.tree, "golden") if self.a.bundle else None, os.path.join(ROOT, "../shared/golden")):
            if folder and os.path.exists(os.path.join(folder, "check.py")):
                return os.path.abspath(folder)
        return None

    def embedded(self):
        return self.check([os.path.join(ROOT, "tests/golden/check_goldens.py"), self.script("loci", "fp32"), "--device", self.device],
                          "embedded", r"^(ok|FAIL)")

    def golden(self):
        folder = self.golden_folder()
        if not folder:
            raise Skipped("the reference's outputs are not beside the checkout")
        parts = ["--parts", "predict,severed"] if self.a.smoke else []
        return self.check([os.path.join(folder, "check.py"), os.path.join(folder, "tiny-a"), "--loci", self.script("loci", "fp32"), "--device",
                           self.device, *parts], "golden", r"^(ok|FALLS SHORT)")

    def check(self, command, step, pattern):
        code, text = self.run([sys.executable, *command], LIMITS[step])
        lines = [line for line in text.splitlines() if re.match(pattern, line)]
        if code != 0:
            kind = Unfinished if self.out_of_time(code) else Failure
            raise kind(f"the check ended with {code}", {"lines": lines, "output": text[-2000:]})
        return {"lines": lines}

    def precision(self):
        results = self.fresh("precision.json")
        golden = self.golden_folder()
        flags = ["--golden", os.path.join(golden, "tiny-a")] if golden and not (self.a.smoke or self.a.time_limit) else []
        code, text = self.run([sys.executable, os.path.join(ROOT, "bench/precision.py"), self.script("loci"), "--device", self.device,
                               "--precisions", ",".join(self.precisions), *flags, "--output", results], LIMITS["precision"])
        found = json.loads(read(results)) if os.path.exists(results) else {}
        if code != 0:
            kind = Unfinished if self.out_of_time(code) else Failure
            raise kind(f"precision.py ended with {code}", found | {"output": text[-2000:]})
        return found

    def kernels(self):
        found, bad = {}, []
        for precision in self.precisions:
            found[precision] = self.kernels_in(precision)
            errors = [row["name"] for row in found[precision]["rows"] if "error" in row]
            if errors or found[precision]["exit"] != 0:
                bad.append(f"{precision} ({', '.join(errors) or 'ended with {}'.format(found[precision]['exit'])})")
        if bad:
            raise Failure(f"wrong: {'; '.join(bad)}", found)
        unfinished = [f"{precision} ({each['unfinished']})" for precision, each in found.items() if "unfinished" in each]
        if unfinished:
            raise Unfinished(f"unfinished: {'; '.join(unfinished)}", found)
        return found

    def kernels_in(self, precision):
        """The benchmarks in one precision; those after one that ends its process, or spoils the device, run in another one."""
        results = os.path.join(self.work, f"kernels-{precision}.json")
        command = [self.program("kernels_bench"), f"--device={self.device}", f"--precision={precision}",
                   f"--shape={'smoke' if self.a.smoke else self.a.shape}"]
        wanted = [] if precision == self.precisions[0] else [f"--benchmark_filter={PRODUCTS}"]
        before = self.earlier("kernels").get(precision, {"rows": []})
        found = before | {"rows": [row for row in before["rows"] if "error" not in row], "exit": 0}
        for key in ("unfinished", "output"):
            found.pop(key, None)
        try:
            code, text = self.run([*command, *wanted, "--benchmark_list_tests=true"], LIMITS["kernels"], own=True)
        except Unfinished as reason:
            return found | {"unfinished": str(reason)}
        found["exit"] = code
        measured = {row["name"] for row in found["rows"]}
        listed = [line.strip() for line in text.splitlines() if re.search(r"/iterations:\d", line)]
        left = [name for name in listed if name.split("/iterations:")[0] not in measured]
        for _ in range(MOST_PROCESSES):
            if not left:
                break
            if os.path.exists(results):
                os.remove(results)
            pattern = "|".join(map(re.escape, left))
            try:
                code, text = self.run([*command, f"--benchmark_filter=^({pattern})$", f"--benchmark_out={results}"],
                                      LIMITS["kernels"], own=True)
            except Unfinished as reason:
                found["unfinished"] = f"{len(left)} benchmarks were left: {reason}"
                break
            made = read_kernels(results)
            rows = made.pop("rows")
            spoiled = next((i + 1 for i, row in enumerate(rows) if DEVICE_ERROR.search(row.get("error", ""))), len(rows))
            found |= made | {"rows": found["rows"] + rows[:spoiled], "exit": 0 if code == "time limit" else code}
            left = left[spoiled:]
            if code == "time limit":
                found["unfinished"] = f"{len(left)} benchmarks were left at the time limit"
                break
            if code != 0:
                found["output"] = text[-1500:]
            if left and spoiled == len(rows):  # the next one ended the process
                found["rows"].append({"name": left.pop(0).split("/iterations:")[0], "error": f"ended the program with {code}"})
        return found

    def peer_python(self):
        """A Python with PyTorch and transformers: --peer-python, else this one or the one in the path."""
        look = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ('torch', 'transformers'))))"
        for python in filter(None, (self.a.peer_python, sys.executable, shutil.which("python3"))):
            if python == self.a.peer_python or subprocess.run([python, "-c", look], capture_output=True).returncode == 0:
                return python
        return None

    def reference_checkout(self):
        carried = os.path.join(self.tree, "rome")
        return self.a.rome or (carried if self.a.bundle and os.path.isdir(carried) else None)

    def comparison(self):
        found, bad, unfinished = {}, [], []
        # tf32 is the default of users; under a time limit its jobs come before the same ones in another precision.
        precisions = sorted(self.precisions, key=lambda precision: precision != "tf32")
        if self.a.time_limit and not self.a.chosen_precisions:
            precisions = precisions[:1]
        for precision in precisions:
            before = self.earlier("comparison").get(precision, {})
            jobs = [job for job in self.a.jobs.split(",") if job not in before.get("done", [])]
            if not jobs:
                found[precision] = before
                continue
            try:
                code, made, text = self.compare(precision, jobs)
            except Unfinished as reason:
                found[precision] = before | {"skipped": str(reason)}
                unfinished.append(precision)
                continue
            made["rows"] = [row for row in before.get("rows", []) if row.get("of") in before.get("done", [])] + made.get("rows", [])
            made["done"] = before.get("done", []) + made.get("done", [])
            found[precision] = made
            if code != 0:
                (unfinished if self.out_of_time(code) else bad).append(precision)
                found[precision]["output"] = text[-2000:]
            if not self.reference_checkout():
                found[precision]["reference"] = "skipped: no --rome CHECKOUT"
            if not self.peer_python():
                found[precision]["PyTorch"] = "skipped: no --peer-python PYTHON"
            elif any(row.get("peer_error") for row in made["rows"]):
                found[precision]["peers"] = "a peer failed; its rows say why"
        if bad:
            raise Failure(f"jobs failed in {', '.join(bad)}", found)
        if unfinished:
            raise Unfinished(f"unfinished in {', '.join(unfinished)}", found)
        return found

    def compare(self, precision, jobs):
        """(exit code, report, output) of bench/compare.py."""
        shape = "smoke" if self.a.smoke else self.a.shape
        tokenizer = self.a.tokenizer or next(
            folder for folder in (os.path.join(self.tree, "tokenizer"), f"{self.golden_folder()}/tiny-a/model", os.path.join(ROOT, "data/model"))
            if os.path.exists(os.path.join(folder, "vocab.json")))
        results = self.fresh(f"comparison-{precision}.json")
        command = [sys.executable, os.path.join(ROOT, "bench/compare.py"), "--loci", self.script("loci"), "--forward",
                   self.script("forward_bench"), "--tokenizer", tokenizer, "--shape", shape, "--model",
                   os.path.join(self.work, f"model-{shape}"), "--device", self.device, "--precision", precision, "--edits",
                   2 if self.a.smoke else 64, "--jobs", ",".join(jobs), "--output", results]
        rome, peer_python = self.reference_checkout(), self.peer_python()
        if not (rome or self.a.smoke):  # few tokens are for the reference's sake: they do not show a GPU's rate
            command += ["--cov-tokens", 300000]
        if self.a.time_limit:  # a whole trace takes the reference a minute or more
            command.append("--trace-one-token")
        if peer_python:
            command += ["--peer-python", peer_python]
        if rome:
            command += ["--rome", rome]
        code, text = self.run(command, LIMITS["comparison"])
        made = json.loads(read(results)) if os.path.exists(results) else {}
        return code, {key: value for key, value in made.items() if key in ("rows", "versions", "shape", "done")}, text

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.machine["card"] == "none" or not os.path.exists(tool):
            raise Skipped("there is no compute-sanitizer" if self.machine["card"] != "none" else "there is no GPU")
        found, bad, left = {}, [], 0
        runs = [(check, suite, precision) for check in TOOLS for suite, precisions in SANITIZED.items() for precision in precisions
                if precision in self.precisions]
        if self.a.time_limit:
            runs = [run for run in FEW_SANITIZED if run[2] in self.precisions]
        for check, suite, precision in runs:
            name = f"{check} {suite} {precision}"
            before = self.earlier("sanitizer").get(name)
            if isinstance(before, dict) and before["exit"] == 0 and "output" not in before:
                found[name] = before
                continue
            try:
                code, text = self.run([tool, "--tool", check, "--error-exitcode", 9, self.program("kernels_tests"), "--gtest_brief=1",
                                       f"--gtest_filter={suite}"], LIMITS["sanitizer"], own=True, LOCI_TEST_DEVICE=self.device,
                                      LOCI_TEST_SOURCE=ROOT, LOCI_TEST_PRECISION=precision, LOCI_MEMORY_CACHE="off")
            except Unfinished as reason:
                found[name] = f"skipped: {reason}"
                left += 1
                continue
            summary = [line.strip("= ") for line in text.splitlines() if "SUMMARY" in line]
            found[name] = {"exit": code, "summary": summary[-1] if summary else ""}
            if self.out_of_time(code):
                left += 1
            elif code != 0 or NO_DEVICE in text:
                found[name]["output"] = text[:1500] + " ... " + text[-1500:]
                bad.append(name)
        if bad:
            raise Failure(f"reported: {', '.join(bad)}", found)
        if left:
            raise Unfinished(f"{left} of {len(runs)} runs were left", found)
        return found

    def ctest(self):
        if self.a.bundle or self.machine["card"] == "none":
            raise Skipped("a bundle's tests run without CTest" if self.a.bundle else "there is no GPU")
        code, text = self.run(["ctest", "--test-dir", self.tree, "-L", "gpu", "--output-on-failure"], LIMITS["ctest"])
        if code != 0 or text.count("***Skipped") == text.count(" Test #"):
            raise Failure(f"ctest -L gpu ended with {code}", {"output": text[-3000:]})
        return {"output": text[-400:]}

    # The report

    def share(self, name, names):
        """Seconds for a step, of those that --time-limit leaves for it and the steps after it."""
        if not self.a.time_limit:
            return float("inf")
        left = self.a.time_limit - (time.time() - self.begin)
        return max(0, left * SHARES[name] / sum(SHARES[each] for each in names[names.index(name):]))

    def execute(self, name, share=float("inf")):
        start = time.time()
        self.step_ends = start + share
        print(f"== {name}" + ("" if share == float("inf") else f" (up to {share:.0f} s)"), flush=True)
        print(f"== {name}", file=self.log, flush=True)
        ended = None
        try:
            outcome = {"status": "ok", **getattr(self, name)()}
        except Skipped as reason:
            outcome = {"status": "skipped", "reason": str(reason)}
        except Unfinished as failure:
            outcome = {"status": "unfinished", "reason": str(failure), **failure.found}
        except Failure as failure:
            outcome = {"status": "failed", "reason": str(failure), **failure.found}
        except Ended as signal_name:
            ended, outcome = signal_name, {"status": "unfinished", "reason": f"ended by {signal_name}"}
        except Exception as error:  # a fault of this script is a failed step too
            outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        # What ran earlier says more than that there is no time now.
        if not (outcome["status"] in ("skipped", "unfinished") and len(outcome) == 2 and name in self.steps):
            self.steps[name] = outcome | {"seconds": round(time.time() - start, 1), "date": time.strftime("%Y-%m-%d %H:%M:%S")}
        print(f"   {outcome['status']} {outcome.get('reason', '')} ({time.time() - start:.0f} s)", flush=True)
        if ended:
            raise ended
        return outcome["status"] in ("ok", "skipped")

    def write(self):
        report = {"machine": self.machine, "device": self.device, "smoke": self.a.smoke, "commit": commit_of(self.steps),
                  "date": time.strftime("%Y-%m-%d"), "targets": targets_of(self.steps),
                  "steps": {name: self.steps[name] for name in STEPS if name in self.steps}}
        with open(self.output + ".new", "w") as out:
            json.dump(report, out, indent=1)
            out.write("\n")
        os.replace(self.output + ".new", self.output)
        return report

    def wanted(self):
        """The steps to run: those that were asked for, else all that did not end well on this card before."""
        if self.a.steps is not None:
            self.done_here = {}
            return self.a.steps.split(",") if self.a.steps else []
        # What would be skipped is to have no share of the time; the step tests runs what ctest does, quicker.
        left_out = {"build": self.a.bundle or self.a.build, "ctest": self.a.bundle or self.a.time_limit or self.here["card"] == "none",
                    "golden": not self.golden_folder(), "sanitizer": self.here["card"] == "none"}
        steps = [name for name in STEPS if not left_out.get(name)]
        names = [name for name in steps if self.earlier(name).get("status") != "ok"]
        if done := [name for name in steps if name not in names]:
            print(f"not run again, since an earlier report has them as ok: {', '.join(done)}", flush=True)
        return names

    def main(self):
        fine, names = True, self.wanted()
        if names and self.device.startswith("cuda") and not self.a.emulated and self.here["card"] == "none":
            print("gpu_report.sh: nvidia-smi shows no GPU here, so nothing was built; run it on a machine with one, or see with "
                  "--smoke --build DIR whether the script works", file=sys.stderr)
            return 2
        with open(self.output.removesuffix(".json") + ".log", "a") as self.log:
            for name in names:
                try:
                    fine &= self.execute(name, self.share(name, names))
                finally:
                    self.write()
        report = self.write()
        for target in report["targets"]:
            print(f"{'met   ' if target['met'] else 'MISSED'} {target['name']}: {target['value']:.2f} (target {target['target']:.2f})")
        print(f"report: {self.output} ({time.time() - self.begin:.0f} s)")
        return 0 if fine else 1


def list_gpu_tests(listed):
    """{executable: {precision: names}} from `ctest --show-only=json-v1`."""
    made = {}
    for test in listed["tests"]:
        properties = {p["name"]: p["value"] for p in test["properties"]}
        precisions = [x for x in properties.get("ENVIRONMENT", []) if x.startswith("LOCI_TEST_PRECISION=")]
        if not test.get("command") or not precisions:
            continue  # not built, or not a GoogleTest program
        precision = precisions[0].removeprefix("LOCI_TEST_PRECISION=")
        names = made.setdefault(os.path.basename(test["command"][0]), {}).setdefault(precision, [])
        names += [x.removeprefix("--gtest_filter=") for x in test["command"] if x.startswith("--gtest_filter=")]
    return made


def split_test_output(text):
    """({test: (verdict, its output)}, whether all ran) of a GoogleTest program: up to the first test that did not end, or that left
    a device error behind. That one's verdict is "failed" too."""
    made, name, lines = {}, None, []
    for line in text.splitlines():
        mark = re.match(r"\[ +(RUN|OK|FAILED|SKIPPED) +\] ([^ ,]+)", line)
        if mark and mark[1] == "RUN":
            name, lines = mark[2], []
        elif mark and mark[2] == name:
            made[name] = {"OK": "passed", "SKIPPED": "skipped", "FAILED": "failed"}[mark[1]], "\n".join(lines)
            if mark[1] == "FAILED" and any(DEVICE_ERROR.search(said) for said in lines):
                return made, False
            name = None
        else:
            lines.append(line)
    if name:
        made[name] = "failed", "\n".join(lines)
    return made, name is None


def read_kernels(path):
    """Rows of Google Benchmark's output, as many as were written."""
    try:
        text = read(path)
    except OSError:
        return {"rows": []}
    try:
        found = json.loads(text)
    except ValueError:  # the program did not come to its end
        try:
            found = json.loads(text[:text.rindex("}") + 1] + "]}")
        except ValueError:
            return {"rows": []}
    context, rows = found["context"], []
    for row in found["benchmarks"]:
        name = row["name"].split("/iterations:")[0]
        if row.get("error_occurred"):
            rows.append({"name": name, "error": row["error_message"]})
            continue
        keys = ("GFLOP/s", "GB/s", "of_ceiling", "spread", "samples", "batch", "instances")
        rows.append({"name": name, "milliseconds": row["real_time"], **{key: row[key] for key in keys if key in row}})
    return {"commit": context["commit"], "device": context["device"], "ceiling_GFLOP/s": float(context["ceiling_GFLOP/s"]),
            "ceiling_GB/s": float(context["ceiling_GB/s"]), "rows": rows}


def commit_of(steps):
    for precision in steps.get("kernels", {}).values():
        if isinstance(precision, dict) and "commit" in precision:
            return precision["commit"]
    out = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return out or "unknown"


def targets_of(steps):
    """The figures that the backend is held to: products and long attention of at least 1024 rows, row-wise ops large enough to
    fill the card, and the forward pass beside PyTorch."""
    made = []
    for precision, found in steps.get("kernels", {}).items():
        for row in found["rows"] if isinstance(found, dict) and "rows" in found else ():
            size = re.search(r"/(\d+)x(\d+)(?:x(\d+))?$", row["name"])
            if "of_ceiling" not in row or not size:
                continue
            extents = [int(x) for x in size.groups() if x]
            if row["name"].startswith(("gemm/", "linear")) and min(extents) >= 1024:
                made.append(("product", f"{row['name']} {precision}", row["of_ceiling"]))
            if "GB/s" in row and extents[0] * extents[1] >= 8192 * 1600:
                made.append(("memory", row["name"], row["of_ceiling"]))
    for precision, found in steps.get("comparison", {}).items():
        for row in found.get("rows", ()) if isinstance(found, dict) else ():
            if "8x1024" in row["job"] and "ratio" in row:
                made.append(("forward", f"{row['job']}, {row['peer']}", row["ratio"]))
    return [{"name": f"{kind}: {name}", "value": value, "target": TARGETS[kind], "met": bool(value >= TARGETS[kind])}
            for kind, name, value in made]


def main():
    parser = argparse.ArgumentParser(prog="gpu_report.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", metavar="DIR", help="use the programs of scripts/bundle.sh: its folder, or its archive, which is unpacked")
    parser.add_argument("--build", metavar="DIR", help="use this build tree as it is")
    parser.add_argument("--device", help="default: cuda; with --smoke: cpu")
    parser.add_argument("--precisions", help="default: fp32,tf32,bf16; on the CPU: fp32")
    parser.add_argument("--steps", help=f"default: of {','.join(STEPS)} those that no earlier report has as ok; an empty list only merges")
    parser.add_argument("--shape", default="xl", choices=["small", "xl"])
    parser.add_argument("--jobs", default="load,trace,edit,forward,eval,later_trace,cov", help="of the comparison, in this order: %(default)s")
    parser.add_argument("--peer-python", metavar="PYTHON", help="a Python with torch and transformers; default: python3 where it has them")
    parser.add_argument("--rome", metavar="CHECKOUT", help="the unmodified reference; default: the bundle's")
    parser.add_argument("--golden", metavar="DIR", help="the reference's outputs; default: ../shared/golden")
    parser.add_argument("--tokenizer", metavar="DIR", help="vocab.json and merges.txt for the comparison's model")
    parser.add_argument("--work", metavar="DIR", help="keep intermediate files and the comparison's model here")
    parser.add_argument("--time-limit", type=float, default=0, help="seconds for everything, unpacking included (0: none); each step then has its share of them")
    parser.add_argument("--merge", metavar="REPORT", action="append", default=[], help="take the steps of another report in; what is ok there, from a card of this name, is not run again")
    parser.add_argument("--afresh", action="store_true", help="pass over an earlier report at --output: everything runs again")
    parser.add_argument("--emulated", action="store_true", help="the programs on the emulated device of a build tree without CUDA")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: that everything runs, on any machine")
    parser.add_argument("--output", metavar="FILE.json", help="default: bench/results/gpu-CARD.json")
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cpu" if arguments.smoke and not arguments.emulated else "cuda")
    arguments.chosen_precisions = arguments.precisions
    arguments.precisions = arguments.precisions or ("fp32" if arguments.device == "cpu" else "fp32,tf32,bf16")
    unknown = set(filter(None, (arguments.steps or "").split(","))) - set(STEPS)
    if unknown:
        parser.error(f"--steps: {', '.join(sorted(unknown))} is unknown; there are {', '.join(STEPS)}")

    def end(number, _):
        raise Ended(signal.Signals(number).name)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    report = None
    try:
        report = Report(arguments)
        code = report.main()
    except Ended as name:
        print(f"gpu_report.sh: ended by {name}", file=sys.stderr)
        code = 1
    finally:
        if report and not arguments.work:
            shutil.rmtree(report.work, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
