#!/usr/bin/python3
"""How trace, edit and eval scale over ranks on this machine's cores: strong (the same work) and weak (work in step with ranks).

    scaling.py --loci build/cpu/app/loci [--mpirun mpirun] [--repeats 3] --output bench/results/scaling-cpu.json

Ranks have one thread each. Seconds are those of whole processes, starting, loading and merging included; of the repeats the
median counts. Where there are more ranks than cores, efficiency is in relation to the cores. Every result is compared with
that of one rank: a difference is an error. Also measured, for bench/simulate_sweep.py: the seconds of single units, what the merge
takes (of units, and after the last one), and what the store's operations cost on this disk. A run that fails ends all with exit code 1.
"""
import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, ".."))
GOLDEN = f"{ROOT}/tests/golden/embedded"
sys.path += [f"{ROOT}/tests/{folder}" for folder in ("app", "golden", "mpi")]
import mpirun  # noqa: E402
from check_ranks import expect_same  # noqa: E402
from golden_inputs import editing_moment  # noqa: E402

RANKS = (1, 2, 4)
MODEL, WORLD = f"{ROOT}/data/model", f"{ROOT}/data/world"
# Items of the strong runs; the weak ones start with half of it.
ITEMS = {"trace": 192, "edit": 128, "eval": 128}
PER_UNIT = {"trace": 4, "edit": 16, "eval": 16}
SMALL_FACTS = 24


class Watcher(threading.Thread):
    """Collects when each unit was marked as done."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.marks, self.ended = parts, {}, threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            try:
                with os.scandir(self.parts) as entries:
                    for entry in entries:
                        if entry.name.endswith(".done") and entry.name not in self.marks:
                            self.marks[entry.name] = entry.stat().st_mtime
            except FileNotFoundError:
                continue


class Bench:
    def __init__(self, arguments, work):
        self.a, self.work = arguments, work
        width = json.load(open(f"{MODEL}/config.json"))["n_inner"]
        layer = json.load(open(f"{GOLDEN}/hparams.json"))["layers"][0]
        moment = self.path(f"transformer.h.{layer}.mlp.c_proj_float32_mom2.npz")
        numpy.savez(moment, **{"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": numpy.array(1),
                               "mom2.mom2": editing_moment(width), "constructor": "util.runningstats.CombinedStat()"})
        edits = ["--cov", moment, "--hparams", f"{GOLDEN}/hparams.json", "--context-templates", f"{GOLDEN}/templates.json"]
        records = f"{WORLD}/records_tune.json"
        self.flags = {"trace": [MODEL, "--facts", f"{WORLD}/known_facts.json"],
                      "edit": [MODEL, "--requests", records, *edits],
                      "eval": [MODEL, "--dataset", "counterfact", "--records", records, *edits]}

    def path(self, name):
        return os.path.join(self.work, name)

    def command(self, kind, items, output, flags=None):
        return [self.a.loci, kind, *(flags or self.flags[kind]), "--limit", str(items), "--threads", "1", "--output", output]

    def run(self, kind, items, ranks, flags=None):
        """One run: {"seconds", "end_seconds", "unit_seconds"}: the second after the last unit that was seen, the third in the order of
        their ends, with one rank, each with the merging of the one before."""
        output = self.path(f"{kind}.h5")
        command = [*self.command(kind, items, output, flags), "--overwrite"]
        if ranks > 1:
            command = [*mpirun.command(self.a.mpirun, ranks), "--bind-to", "none", *command]
        watcher = Watcher(output + ".parts")
        watcher.start()
        start = time.time()
        done = subprocess.run(command, env=dict(mpirun.environment(), LOCI_DEVICE="cpu"), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
        end = time.time()
        watcher.ended.set()
        watcher.join()
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        marks = sorted(watcher.marks.values())
        return {"seconds": end - start, "end_seconds": end - marks[-1] if marks else 0.0, "units_seen": len(marks),
                "unit_seconds": [round(b - a, 6) for a, b in zip(marks, marks[1:])], "output": output,
                "bytes": os.path.getsize(output)}

    def merge_seconds(self, kind, items):
        """What it takes to verify and merge all units but the last few, with the end of the job for them: a run that was stopped
        there and continued, less a run of so many facts as were left."""
        output, units = self.path(f"{kind}_stopped.h5"), -(-items // PER_UNIT[kind])
        command = self.command(kind, items, output)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": dict(os.environ, LOCI_DEVICE="cpu")}
        stopped = subprocess.Popen(command, **quiet)
        watcher = Watcher(output + ".parts")
        watcher.start()
        while stopped.poll() is None and len(watcher.marks) < units - 4:
            time.sleep(0.02)
        stopped.send_signal(signal.SIGUSR1)
        code = stopped.wait()
        watcher.ended.set()
        watcher.join()
        if code != 75:
            raise RuntimeError(f"{' '.join(command)} was asked to stop and ended with {code}")
        done = sum(name.endswith(".done") for name in os.listdir(output + ".parts"))
        start = time.time()
        subprocess.run(command, check=True, **quiet)
        continued = time.time() - start
        alone = self.run(kind, items - done * PER_UNIT[kind], 1)["seconds"]
        return {"units": done, "seconds": continued - alone}

    def median(self, kind, items, ranks, flags=None):
        runs = [self.run(kind, items, ranks, flags) for _ in range(self.a.repeats)]
        # Numbers of ranks are to change nothing.
        whole = self.path(f"{kind}_{items}_whole.h5")
        if ranks == 1:
            os.replace(runs[-1]["output"], whole)
        else:
            expect_same(runs[-1]["output"], whole)
        seconds = [run["seconds"] for run in runs]
        print(f"{kind}, {items} items, {ranks} ranks: {statistics.median(seconds):.2f} s", flush=True)
        return {"ranks": ranks, "items": items, "seconds": statistics.median(seconds), "all_seconds": seconds,
                "end_seconds": statistics.median(run["end_seconds"] for run in runs), "output_bytes": runs[-1]["bytes"]}

    def scale(self, kind, flags=None, items=None, ranks=RANKS):
        cores = len(os.sched_getaffinity(0))
        items = items or ITEMS[kind]
        strong = [self.median(kind, items, n, flags) for n in ranks]
        weak = []
        for n in ranks if flags is None else ():
            size = items // 2 * n
            if n > 1:
                self.keep_whole(kind, size)
            weak.append(self.median(kind, size, n))
        for row in strong:
            row["efficiency"] = strong[0]["seconds"] / row["seconds"] / min(row["ranks"], cores)
        for row in weak:
            row["efficiency"] = weak[0]["seconds"] * row["ranks"] / min(row["ranks"], cores) / row["seconds"]
        return {"strong": strong, "weak": weak}

    def keep_whole(self, kind, items):
        """One rank's result of so many items, to compare with."""
        whole = self.path(f"{kind}_{items}_whole.h5")
        if not os.path.exists(whole):
            os.replace(self.run(kind, items, 1)["output"], whole)

    def small_model(self):
        """Flags of traces on a model of GPT-2 small's shape with random weights, whose answers are taken for true."""
        model = self.path("small")
        subprocess.run([sys.executable, f"{HERE}/make_model.py", "--shape", "small", "--tokenizer", MODEL, model], check=True)
        facts = json.load(open(f"{WORLD}/known_facts.json"))[:SMALL_FACTS]
        prompts = self.path("prompts.json")
        json.dump([fact["prompt"] for fact in facts], open(prompts, "w"))
        said = subprocess.run([self.a.loci, "predict", model, "--prompts", prompts, "--top", "1", "--device", "cpu", "--json"], check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for fact, result in zip(facts, json.loads(said)["results"]):
            fact["attribute"] = result["tokens"][0]["text"].strip()
        path = self.path("small_facts.json")
        json.dump(facts, open(path, "w"))
        return [model, "--facts", path, "--samples", "2", "--kinds", "state"]


def median_seconds(action, repeats=200):
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        action(i)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def sync(path, flags=os.O_RDONLY):
    handle = os.open(path, flags)
    os.fsync(handle)
    os.close(handle)


def measure_store(folder, shard_bytes):
    """Seconds of what the unit store does with a file, on the disk of `folder`."""
    data = os.urandom(shard_bytes)

    def path(name, i):
        return os.path.join(folder, f"{name}_{i}")

    def create(i):
        os.close(os.open(path("claim", i), os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def refuse(i):
        try:
            create(i)
        except FileExistsError:
            pass

    def write(i):
        with open(path("shard", i), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def verify(i):
        with open(path("moved", i), "rb") as file:
            hashlib.sha256(file.read()).digest()

    measured = {"shard_bytes": shard_bytes, "claim_seconds": median_seconds(create), "refused_claim_seconds": median_seconds(refuse),
                "look_for_stop_seconds": median_seconds(lambda i: os.path.exists(os.path.join(folder, "stop"))),
                "write_and_sync_seconds": median_seconds(write),
                "rename_seconds": median_seconds(lambda i: os.rename(path("shard", i), path("moved", i))),
                "verify_seconds": median_seconds(verify)}

    def rename_and_sync(i):
        os.rename(path("moved", i), path("last", i))
        sync(folder)

    measured["rename_and_sync_folder_seconds"] = median_seconds(rename_and_sync)
    large = bytes(1 << 26)
    measured["sha256_bytes_per_second"] = len(large) / median_seconds(lambda i: hashlib.sha256(large).digest(), 5)
    measured["remove_seconds"] = median_seconds(lambda i: os.remove(path("last", i)))
    return measured


def machine():
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {"cpu": name, "cores": len(os.sched_getaffinity(0))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loci", required=True, type=os.path.abspath)
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", help="folder for models and results; its disk is measured")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    version = subprocess.run([arguments.loci, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    report = {"machine": machine(), "loci": version, "date": time.strftime("%Y-%m-%d"), "repeats": arguments.repeats, "per_unit": PER_UNIT}
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        bench = Bench(arguments, work)
        report["jobs"] = {kind: bench.scale(kind) for kind in ITEMS}
        report["jobs"]["trace, GPT-2 small's shape"] = bench.scale("trace", bench.small_model(), SMALL_FACTS, (1, 2))
        report["units"] = {}
        for kind, items in (("trace", 600), ("eval", 300)):
            run = bench.run(kind, items, 1)
            run.pop("output")
            report["units"][kind] = {"items": items, **run, "merge": bench.merge_seconds(kind, items)}
        os.mkdir(os.path.join(work, "store"))
        report["store"] = measure_store(os.path.join(work, "store"), 30000)
    with open(arguments.output, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
