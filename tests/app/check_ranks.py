"""Runs trace, edit, eval, cov and train as several ranks, on the embedded model, and checks what they leave.

usage: check_ranks.py LOCI MPIRUN SCENARIO...
Exits with 77, which ctest reports as skipped, where a scenario needs mpirun and there is none.
"""
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "../../data")
GOLDEN = os.path.join(HERE, "../golden/embedded")
sys.path += [os.path.join(HERE, "../golden"), os.path.join(HERE, "../mpi")]
import mpirun  # noqa: E402
from golden_inputs import editing_moment  # noqa: E402

KINDS = ("trace", "edit", "eval", "cov")
# A time limit that ends what would hang; no scenario comes near it.
LIMIT = 120


# --- Comparing results -----------------------------------------------------------------------------------------------


def volatile(name):
    """What differs from run to run, as canonical_hash() leaves it out."""
    return (name in ("seconds", "peak_memory_bytes", "hostname", "date", "world_size", "threads", "inputs", "checksum")
            or name.endswith("_seconds"))


def contents(path):
    """Everything that a file says: {name: bytes}."""
    found = {}

    def add(name, item):
        if volatile(name.split("/")[-1]) or name.startswith("checksums"):
            return
        for key in item.attrs:
            # Dimension scales are references: addresses in the file.
            if not volatile(key) and key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                found[f"{name}@{key}"] = repr(item.attrs[key]).encode()
        if isinstance(item, h5py.Dataset):
            values = item[()]
            found[name] = repr((item.dtype, item.shape)).encode() + (repr(values).encode() if item.dtype == object else values.tobytes())
        else:
            found[name] = b"group"

    with h5py.File(path) as file:
        add("/", file)
        file.visititems(add)
        found["/@config"] = file.attrs["config"].encode()
    return found


class Failure(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failure(message)


def expect_same(path, whole):
    ours, theirs = contents(path), contents(whole)
    expect(len(theirs) > 20, f"{whole} holds next to nothing")
    different = [name for name in sorted(set(ours) | set(theirs)) if ours.get(name) != theirs.get(name)]
    expect(not different, f"{path} differs from {whole} in {len(different)} of {len(theirs)} things: {different[:5]}")
    expect(not os.path.exists(path + ".parts"), f"{path}.parts is left behind")


# --- Running the command ---------------------------------------------------------------------------------------------


class Run:
    """A command under way, its streams in files."""

    def __init__(self, command, prepare=None):
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        environment = dict(mpirun.environment(), LOCI_DEVICE="cpu")
        self.process = subprocess.Popen(command, stdout=self.out, stderr=self.err, env=environment, preexec_fn=prepare)

    def ranks(self):
        """Process ids of mpirun's ranks, in their order; empty until it has started them."""
        found = {}
        try:
            for child in open(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read().split():
                for entry in open(f"/proc/{child}/environ").read().split("\0"):
                    if entry.startswith("OMPI_COMM_WORLD_RANK="):
                        found[int(entry.split("=")[1])] = int(child)
        except OSError:
            return []
        return [found[rank] for rank in sorted(found)]

    def wait(self, code, *texts):
        """Waits for the end; the exit code and what standard error says must be these. `code` None: any but 0."""
        try:
            ended = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            for process in self.ranks() + [self.process.pid]:
                os.kill(process, signal.SIGKILL)
            raise Failure(f"{self.process.args} hangs")
        self.out.seek(0), self.err.seek(0)
        self.output, self.errors = self.out.read(), self.err.read()
        fine = ended != 0 if code is None else ended == code
        expect(fine, f"exit code {ended} instead of {code}\n{self.errors}")
        for text in texts:
            expect(text in self.errors, f"'{text}' is not said:\n{self.errors}")
        return self

    def kill(self, process, number):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass


class Bench:
    def __init__(self, loci, launcher, work):
        self.loci, self.launcher, self.work = loci, launcher, work
        self.random = random.Random(6)
        width = json.load(open(f"{DATA}/model/config.json"))["n_inner"]
        layer = json.load(open(f"{GOLDEN}/hparams.json"))["layers"][0]
        self.moment = self.path(f"transformer.h.{layer}.mlp.c_proj_float32_mom2.npz")
        numpy.savez(self.moment, **{"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": numpy.array(1),
                                    "mom2.mom2": editing_moment(width), "constructor": "util.runningstats.CombinedStat()"})
        self.text = self.path("text.txt")
        with open(self.text, "w") as out:
            for fact in json.load(open(f"{DATA}/world/known_facts.json")):
                out.write(f"{fact['prompt']} {fact['attribute']}\n")

    def path(self, name):
        return os.path.join(self.work, name)

    def loci_command(self, kind, output, limit, *more, threads=1):
        edits = ["--cov", self.moment, "--hparams", f"{GOLDEN}/hparams.json", "--context-templates", f"{GOLDEN}/templates.json"]
        records = f"{DATA}/world/records_tune.json"
        flags = {"trace": ["--facts", f"{DATA}/world/known_facts.json", "--samples", "2", "--window", "3"],
                 "edit": ["--requests", records, *edits],
                 "eval": ["--dataset", "counterfact", "--records", records, *edits],
                 "cov": ["--text", self.text, "--layers", "1-3", "--unit-tokens", "250", "--checkpoint-seconds", "0"]}[kind]
        return [self.loci, kind, f"{DATA}/model", *flags, "--limit", str(limit), "--output", self.path(output), "--threads",
                str(threads), *more]

    def under_mpirun(self, ranks, command):
        return [*mpirun.command(self.launcher, ranks), *command]

    def start(self, kind, output, limit, *more, ranks=0, threads=1, prepare=None):
        """`ranks` 0: no launcher."""
        command = self.loci_command(kind, output, limit, *more, threads=threads)
        return Run(self.under_mpirun(ranks, command) if ranks else command, prepare)

    def wait_for_units(self, run, output, units):
        """Until so many units are done; the job must not end before."""
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                marks = [name for name in os.listdir(self.path(output) + ".parts") if name.endswith(".done")]
            except FileNotFoundError:
                marks = []
            if len(marks) >= units:
                return
            expect(run.process.poll() is None and time.monotonic() < deadline, f"the job ended before {units} units were done")
            time.sleep(0.002)


# --- Scenarios -------------------------------------------------------------------------------------------------------

LIMITS = {"trace": 16, "edit": 48, "eval": 48, "cov": 200}
LONG = 128  # facts of a trace that takes some seconds: 32 units


def whole(bench, kind="trace", limit=LONG):
    """The result of one undisturbed run of one rank, with another number of threads than the ranks have."""
    name = f"whole_{kind}_{limit}.h5"
    if not os.path.exists(bench.path(name)):
        bench.start(kind, name, limit, threads=2).wait(0)
    return bench.path(name)


def check_identical(bench, launch):
    for kind in KINDS:
        for ranks in (1, 2, 3, 4):
            output = f"{kind}_{ranks}.h5"
            run = launch(kind, output, ranks).wait(0)
            expect_same(bench.path(output), whole(bench, kind, LIMITS[kind]))
            expect(len(json.loads(run.output)) > 2 and run.output.count("\n") == 1, f"standard output is no one line:\n{run.output}")
            expect(run.errors.count("done in") == 1 and "rank " not in run.errors, f"more than rank 0 speaks:\n{run.errors}")
            with h5py.File(bench.path(output)) as file:
                expect(int(file.attrs["world_size"]) == ranks, f"world_size is {file.attrs['world_size']} for {ranks} ranks")


def threads(bench):
    check_identical(bench, lambda kind, output, ranks: bench.start(kind, output, LIMITS[kind], "--json", "--ranks", str(ranks)))
    # Several ranks read one HDF5 file, which was looked through before.
    bench.moment = bench.path("cov_1.h5")
    bench.start("edit", "probed_1.h5", LIMITS["edit"], "--layer", "1", "--ridge", "1").wait(0)
    for attempt in range(3):
        bench.start("edit", "probed_8.h5", LIMITS["edit"], "--layer", "1", "--ridge", "1", "--ranks", "8", "--overwrite").wait(0)
        expect_same(bench.path("probed_8.h5"), bench.path("probed_1.h5"))
    # Interrupted, then continued by another number of ranks.
    run = bench.start("trace", "threads.h5", LONG, "--ranks", "3")
    bench.wait_for_units(run, "threads.h5", 2)
    run.kill(run.process.pid, signal.SIGINT)
    run.wait(75, "interrupted by SIGINT", "run the same command again to continue")
    expect(run.errors.count("interrupted") == 1, f"it is said more than once:\n{run.errors}")
    bench.start("trace", "threads.h5", LONG, "--ranks", "2").wait(0, "were done before")
    expect_same(bench.path("threads.h5"), whole(bench))
    # Not under mpirun, whose shared memory is files too.
    bench.start("trace", "full.h5", LONG, "--ranks", "2", prepare=lambda: limit_files(6000)).wait(5, "full.h5", "nothing was kept")
    bench.start("trace", "full.h5", LONG, "--ranks", "2").wait(0)
    expect_same(bench.path("full.h5"), whole(bench))


def batches(bench):
    """Ranks share what a batch finds for its requests, and a job keeps it."""
    hparams = {"layers": [1, 2], "v_num_grad_steps": 8, "v_lr": 0.3, "mom2_update_weight": 5}
    with open(bench.path("memit.json"), "w") as file:
        json.dump(hparams, file)
    bench.start("cov", "batch_cov.h5", LIMITS["cov"]).wait(0)

    def start(kind, output, limit, *more):
        command = bench.loci_command(kind, output, limit, "--method", "memit", "--ridge", "1", *more)
        command[command.index("--cov") + 1] = bench.path("batch_cov.h5")
        command[command.index("--hparams") + 1] = bench.path("memit.json")
        return Run(command)

    for kind in ("edit", "eval"):
        for name, more in (("all", ()), ("some", ("--batch", "20")), ("sequence", ("--batch", "20", "--sequential"))):
            one, three = f"{name}_{kind}_1.h5", f"{name}_{kind}_3.h5"
            start(kind, one, 48, *more).wait(0)
            start(kind, three, 48, "--ranks", "3", *more).wait(0)
            expect_same(bench.path(three), bench.path(one))
    # What was found before an interruption is not found again.
    run = start("edit", "kept.h5", 48, "--batch", "20", "--sequential")
    bench.wait_for_units(run, "kept.h5", 1)
    run.kill(run.process.pid, signal.SIGINT)
    run.wait(75, "run the same command again to continue")
    start("edit", "kept.h5", 48, "--batch", "20", "--sequential", "--ranks", "2").wait(0, "were done before")
    expect_same(bench.path("kept.h5"), bench.path("sequence_edit_1.h5"))
    # A batch of more requests takes over what was found for fewer, and is another batch.
    start("edit", "grown.h5", 32).wait(0)
    start("edit", "grown.h5", 48).wait(0, "32 of 96 searches and writes were done before")
    expect_same(bench.path("grown.h5"), bench.path("all_edit_1.h5"))
    run = start("edit", "grown.h5", 60, "--sequential").wait(2, "grown.h5")


def limit_files(size):
    """From here on, a write past `size` bytes of a file fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def identical(bench):
    check_identical(bench, lambda kind, output, ranks: bench.start(kind, output, LIMITS[kind], "--json", ranks=ranks))
    for kind in ("edit", "eval"):
        bench.start(kind, f"one_{kind}.h5", 20, "--sequential").wait(0)
        bench.start(kind, f"two_{kind}.h5", 20, "--sequential", ranks=2).wait(0)
        expect_same(bench.path(f"two_{kind}.h5"), bench.path(f"one_{kind}.h5"))
    run = bench.start("edit", "edit_4.h5", LIMITS["edit"], ranks=2).wait(0, "is complete already")
    expect(run.errors.count("complete already") == 1, f"it is said more than once:\n{run.errors}")


def refusals(bench):
    run = Run(bench.under_mpirun(2, [bench.loci, "info", f"{DATA}/model"])).wait(2, "loci info runs as one process, but 2 were launched")
    run = bench.start("trace", "refused.h5", LONG, "--ranks", "2", ranks=2).wait(2, "leave --ranks out")
    command = bench.loci_command("trace", "refused.h5", LONG)
    command[command.index("--facts") + 1] = bench.path("no.json")
    run = Run(bench.under_mpirun(3, command)).wait(2, "no.json")
    expect(run.errors.count("no.json") == 1, f"more than rank 0 speaks:\n{run.errors}")
    run = bench.start("trace", "refused.h5", LONG, "--loud", ranks=3).wait(2, "--loud")
    expect(run.errors.count("--loud") == 1, f"more than rank 0 speaks:\n{run.errors}")
    expect(not os.path.exists(bench.path("refused.h5.parts")), "a refused job leaves its folder behind")
    # That nothing was traced is known to all ranks, and said once.
    with open(bench.path("wrong.json"), "w") as file:
        json.dump([{"known_id": 0, "subject": "Geneva", "prompt": "Geneva is in", "attribute": "no such place"}], file)
    command = bench.loci_command("trace", "nothing.h5", LONG)
    command[command.index("--facts") + 1] = bench.path("wrong.json")
    run = Run(bench.under_mpirun(2, command)).wait(7, "nothing was traced")
    expect(run.errors.count("nothing was traced") == 1, f"it is said more than once:\n{run.errors}")
    # A second job on the same output, while the first one runs.
    first = bench.start("trace", "second.h5", LONG, ranks=2)
    bench.wait_for_units(first, "second.h5", 1)
    bench.start("trace", "second.h5", LONG).wait(5, "another job (process ", "is writing this output")
    bench.start("trace", "second.h5", LONG, ranks=2).wait(5, "another job (process ", "is writing this output")
    first.wait(0)
    expect_same(bench.path("second.h5"), whole(bench))


def interrupt(bench):
    # Of all ranks, by the launcher, then of one of them.
    run = bench.start("trace", "out.h5", LONG, ranks=3)
    bench.wait_for_units(run, "out.h5", 2)
    run.kill(run.process.pid, signal.SIGUSR1)
    run.wait(75, "interrupted by SIGUSR1", "run the same command again to continue")
    expect(run.errors.count("interrupted by") == 1, f"it is said more than once:\n{run.errors}")
    run = bench.start("trace", "out.h5", LONG, ranks=4)
    bench.wait_for_units(run, "out.h5", 8)
    run.kill(run.ranks()[2], signal.SIGTERM)
    run.wait(75, "interrupted by SIGTERM", "were done before")
    bench.start("trace", "out.h5", LONG, ranks=2).wait(0, "were done before")
    expect_same(bench.path("out.h5"), whole(bench))


    moments(bench)


def moments(bench):
    """Second moments keep one checkpoint, which another number of ranks continues."""
    documents = 1200
    run = bench.start("cov", "moments.h5", documents, ranks=3)
    bench.wait_for_units(run, "moments.h5", 1)
    run.kill(run.process.pid, signal.SIGUSR1)
    run.wait(75, "cov: interrupted by SIGUSR1", "run the same command again to continue")
    shards = [name for name in os.listdir(bench.path("moments.h5.parts")) if name.endswith(".h5")]
    expect(len(shards) == 1, f"there is not one checkpoint: {shards}")
    bench.start("cov", "moments.h5", documents, ranks=2).wait(0, "tokens were done before")
    expect_same(bench.path("moments.h5"), whole(bench, "cov", documents))


def kill(bench):
    """kill -9 of one rank or of all, at random times, until the job is through."""
    start = time.monotonic()
    bench.start("trace", "timing.h5", LONG, ranks=3).wait(0)
    seconds = time.monotonic() - start
    for victim in (0, 2, "all"):
        output = f"kill_{victim}.h5"
        for _ in range(2):
            run = bench.start("trace", output, LONG, ranks=3)
            begin, delay = time.monotonic(), bench.random.uniform(0.1, 1.0) * seconds
            while run.process.poll() is None and (len(run.ranks()) < 3 or time.monotonic() < begin + delay):
                expect(time.monotonic() < begin + LIMIT, "mpirun does not start its ranks")
                time.sleep(0.002)
            for rank, process in enumerate(run.ranks()):
                if victim in (rank, "all"):
                    run.kill(process, signal.SIGKILL)
            run.process.wait(LIMIT)
        bench.start("trace", output, LONG, ranks=2).wait(0)
        expect_same(bench.path(output), whole(bench))


def hang(bench):
    for stopped in (1, 0):
        output = f"hang_{stopped}.h5"
        run = bench.start("trace", output, LONG, "--rank-timeout", "2", ranks=3)
        bench.wait_for_units(run, output, 1)
        run.kill(run.ranks()[stopped], signal.SIGSTOP)
        run.wait(6, f"rank {stopped} of 3 did not come to the end of the units within 2 s")
        bench.start("trace", output, LONG).wait(0, "were done before")
        expect_same(bench.path(output), whole(bench))


def damage(bench):
    """Shards of an interrupted job that are not what they were."""
    run = bench.start("trace", "out.h5", LONG, ranks=2)
    bench.wait_for_units(run, "out.h5", 6)
    run.kill(run.process.pid, signal.SIGUSR1)
    run.wait(75)
    parts = bench.path("out.h5") + ".parts"
    shards = sorted(name for name in os.listdir(parts) if name.endswith(".h5"))
    with open(f"{parts}/{shards[0]}", "r+b") as shard:
        shard.seek(1000)
        byte = shard.read(1)[0]
        shard.seek(1000)
        shard.write(bytes([byte ^ 0x40]))
    os.remove(f"{parts}/{shards[1]}")
    run = bench.start("trace", "out.h5", LONG, ranks=3).wait(0, "SHA-256 is not its mark's", "the shard is missing")
    expect(run.errors.count("is done again") == 2, f"two units are to be done again:\n{run.errors}")
    expect_same(bench.path("out.h5"), whole(bench))
    # One that is damaged before rank 0, which sleeps, has merged it is found then.
    run = bench.start("trace", "late.h5", LONG, ranks=2)
    bench.wait_for_units(run, "late.h5", 3)
    run.kill(run.ranks()[0], signal.SIGSTOP)
    parts = bench.path("late.h5") + ".parts"

    def marks():
        return {name for name in os.listdir(parts) if name.endswith(".done")}

    before = marks()
    bench.wait_for_units(run, "late.h5", len(before) + 2)
    with open(f"{parts}/{max(marks() - before).replace('.done', '.h5')}", "r+b") as shard:
        shard.truncate(500)
    run.kill(run.ranks()[0], signal.SIGCONT)
    run.wait(5, "the shard has 500 bytes", "run the command again")
    bench.start("trace", "late.h5", LONG, ranks=2).wait(0)
    expect_same(bench.path("late.h5"), whole(bench))


def train(bench):
    """Data-parallel training: undisturbed, interrupted and killed, it gives the bits of one rank."""
    config = {"tokenizer": f"{DATA}/model", "model": {"layers": 2, "width": 32, "heads": 4, "positions": 64}, "text": bench.text,
              "validation_fraction": 0.05, "steps": 120, "tokens_per_step": 300, "tokens_per_wave": 60, "validate_every": 40,
              "checkpoint_every": 5, "report_every": 5}

    def write_config(config):
        with open(bench.path("train.json"), "w") as out:
            json.dump(config, out)

    def start(output, *more, ranks=0):
        command = [bench.loci, "train", "--config", bench.path("train.json"), "--output", bench.path(output), "--threads", "1", *more]
        return Run(bench.under_mpirun(ranks, command) if ranks else command)

    def expect_same_model(output, ranks):
        with open(bench.path(f"{output}/model.safetensors"), "rb") as ours, open(bench.path("whole/model.safetensors"), "rb") as theirs:
            expect(ours.read() == theirs.read(), f"{output} has other weights than one rank makes")
        ours, theirs = (json.load(open(bench.path(f"{name}/training.json"))) for name in (output, "whole"))
        expect(ours["losses"] == theirs["losses"] and len(ours["losses"]) == 3, f"other losses: {ours['losses']}")
        expect(ours["world_size"] == ranks, f"world_size is {ours['world_size']} for {ranks} ranks")
        expect(not os.path.exists(bench.path(f"{output}/training.h5")), "the checkpoint is left behind")

    def wait_for_checkpoint(run, output):
        deadline = time.monotonic() + LIMIT
        while not os.path.exists(bench.path(f"{output}/training.h5")):
            expect(run.process.poll() is None and time.monotonic() < deadline, "the job ended before it wrote a checkpoint")
            time.sleep(0.002)

    write_config(config)
    start("whole").wait(0)
    run = start("two", "--json", ranks=2).wait(0)
    expect(json.loads(run.output)["steps"] == 120 and run.output.count("\n") == 1, f"standard output is no one line:\n{run.output}")
    expect(run.errors.count("step 120 of 120") == 1 and "rank " not in run.errors, f"more than rank 0 speaks:\n{run.errors}")
    expect_same_model("two", 2)
    start("two", ranks=3).wait(0)
    expect_same_model("two", 2)
    # Asked to stop, then killed, then continued by threads.
    run = start("out", ranks=3)
    wait_for_checkpoint(run, "out")
    run.kill(run.process.pid, signal.SIGUSR1)
    run.wait(75, "interrupted by SIGUSR1 after step", "run the same command again to continue")
    expect(run.errors.count("interrupted by") == 1, f"it is said more than once:\n{run.errors}")
    before = os.stat(bench.path("out/training.h5")).st_ino
    run = start("out", ranks=2)
    deadline = time.monotonic() + LIMIT
    while os.stat(bench.path("out/training.h5")).st_ino == before:  # replaced by a file of its own
        expect(run.process.poll() is None and time.monotonic() < deadline, "the job ended before it wrote a checkpoint")
        time.sleep(0.002)
    run.kill(run.ranks()[1], signal.SIGKILL)
    run.wait(None)
    start("out", "--ranks", "4").wait(0, "continuing after step")
    expect_same_model("out", 4)
    # More ranks than waves.
    write_config({**config, "tokens_per_wave": 300})
    start("idle", ranks=2).wait(0, "a step has 1 wave of tokens_per_wave 300: 1 of 2 ranks have nothing to do; lower tokens_per_wave")
    # All ranks meet the same end.
    write_config({**config, "learning_rate": 100, "gradient_clip": 0, "warmup_steps": 0, "initial_deviation": 10})
    run = start("diverges", ranks=3).wait(3, "is not finite: use a lower learning rate")
    expect(run.errors.count("not finite") == 1, f"more than rank 0 speaks:\n{run.errors}")


SCENARIOS = {"threads": threads, "batches": batches, "identical": identical, "train": train, "refusals": refusals, "interrupt": interrupt, "kill": kill,
             "hang": hang, "damage": damage}


def main():
    loci, launcher, *names = sys.argv[1:]
    if not os.path.exists(launcher) and not set(names) <= {"threads", "batches"}:
        print("skipped: no mpirun, or a build without MPI")
        return 77
    bad = 0
    for name in names:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            try:
                SCENARIOS[name](Bench(os.path.abspath(loci), launcher, work))
                print(f"ok: {name}, {time.monotonic() - begin:.1f} s", flush=True)
            except Failure as failure:
                bad += 1
                print(f"FAILED: {name}, {time.monotonic() - begin:.1f} s: {failure}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
