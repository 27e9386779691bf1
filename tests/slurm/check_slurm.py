"""Submits the job scripts of scripts/slurm to a real Slurm on this machine, on the embedded model, and checks what they leave.

usage: check_slurm.py LOCI with-mpi|no-mpi
Exits with 77, which ctest reports as skipped, where Slurm is not installed, this is not root, or the build has no MPI.
"""
import json
import os
import re
import signal
import sys
import tempfile
import time

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "../.."))
sys.path += [HERE, os.path.join(HERE, "../app")]
import check_ranks  # noqa: E402
from check_ranks import expect, expect_same  # noqa: E402
from cluster import Cluster, Failure, environment_of, missing  # noqa: E402

SCRIPTS = f"{ROOT}/scripts/slurm"
LIMIT = 120  # seconds that no job of this test comes near to
LONG = 96  # facts of a trace that takes some seconds


class Test:
    def __init__(self, loci, cluster, work):
        self.loci, self.cluster, self.work = loci, cluster, work
        self.bench = check_ranks.Bench(loci, "", work)

    def path(self, name):
        return os.path.join(self.work, name)

    def flags(self, kind, output, limit, *more):
        """A command of loci without its program."""
        return self.bench.loci_command(kind, output, limit, *more)[1:]

    def submit(self, script, *arguments, **environment):
        """Pretended nodes have two GPUs, which nothing uses."""
        return self.cluster.submit(
            f"--output={self.path('%x.log')}", "--cpus-per-task=1", "--time=10", *arguments[0], f"{SCRIPTS}/{script}", *arguments[1],
            LOCI_HOME=ROOT, LOCI=self.loci, LOCI_DEVICE="cpu", SLICE_FOLDER=self.path("slices"),
            # Ranks on pretended nodes talk over the loopback.
            OMPI_MCA_btl="self,tcp", OMPI_MCA_btl_tcp_if_include="lo", **environment)

    def wait_for_units(self, job, output, units):
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                if sum(name.endswith(".done") for name in os.listdir(self.path(output) + ".parts")) >= units:
                    return
            except FileNotFoundError:
                pass
            shown = self.cluster.wait(job, ("PENDING", "CONFIGURING", "RUNNING"))
            expect(time.monotonic() < deadline, f"no {units} units of {output} are done: {shown}")
            time.sleep(0.005)

    def log(self, job_name):
        with open(self.path(job_name + ".log")) as file:
            return file.read()

    def finish(self, job):
        shown = self.cluster.wait(job, ("COMPLETED",), LIMIT)
        expect(shown["ExitCode"] == "0:0", f"job {job} ended with {shown['ExitCode']}")

    def rank_process(self, rank):
        """Of the only job that runs."""
        for process in self.cluster.processes():
            if os.readlink(f"/proc/{process}/exe") == self.loci and f"SLURM_PROCID={rank}".encode() in environment_of(process):
                return process
        raise Failure(f"there is no rank {rank}")

    def world_size(self, output):
        with h5py.File(self.path(output)) as file:
            return int(file.attrs["world_size"])


def one_node(test):
    """The time limit comes near: the ranks stop, the job is queued again and continues."""
    job = test.submit("one_node.sh", ["--job-name=limit", "--ntasks-per-node=2", "--gpus-per-node=2"],
                      test.flags("trace", "limit.h5", LONG))
    test.wait_for_units(job, "limit.h5", 2)
    test.cluster.call(["scancel", "--batch", "--signal=USR1", job])
    test.cluster.start_again(job)
    test.finish(job)
    log = test.log("limit")
    continued = re.findall(r"^info: trace: \d+ of \d+ facts were done before$", log, re.MULTILINE)
    expect(log.count("interrupted by SIGUSR1") == 1 and len(continued) == 1, f"the job did not continue:\n{log}")
    expect(test.world_size("limit.h5") == 2, f"world_size is {test.world_size('limit.h5')}")
    expect_same(test.path("limit.h5"), check_ranks.whole(test.bench, "trace", LONG))


def cancelled(test):
    """A job that its user ends stays ended; a new one continues its work."""
    def submit(ranks):
        options = ["--job-name=cancel", f"--ntasks-per-node={ranks}", "--gpus-per-node=0"]
        return test.submit("one_node.sh", options, test.flags("trace", "cancel.h5", LONG))

    # As a whole, then its ranks alone, which leave with the code of an interruption.
    job = submit(2)
    test.wait_for_units(job, "cancel.h5", 2)
    test.cluster.call(["scancel", job])
    test.cluster.wait(job, ("CANCELLED",), LIMIT)
    second = submit(2)
    test.wait_for_units(second, "cancel.h5", 6)
    test.cluster.call(["scancel", "--signal=TERM", second])
    shown = test.cluster.wait(second, ("FAILED",), LIMIT)
    expect(shown["ExitCode"] == "75:0" and shown["Restarts"] == "0", f"the job was queued again, or ended otherwise: {shown}")
    shown = test.cluster.show(job)
    expect(shown["JobState"] == "CANCELLED" and shown["Restarts"] == "0", f"the job was queued again: {shown}")
    test.finish(submit(1))
    expect("were done before" in test.log("cancel"), f"the new job did not continue:\n{test.log('cancel')}")
    expect_same(test.path("cancel.h5"), check_ranks.whole(test.bench, "trace", LONG))


def several_nodes(test):
    options = ["--job-name=nodes", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2"]
    job = test.submit("several_nodes.sh", options, test.flags("eval", "nodes.h5", check_ranks.LIMITS["eval"]))
    test.finish(job)
    expect(test.world_size("nodes.h5") == 4, f"world_size is {test.world_size('nodes.h5')}")
    expect_same(test.path("nodes.h5"), check_ranks.whole(test.bench, "eval", check_ranks.LIMITS["eval"]))


def killed(test):
    """A rank of one node is lost: the job ends, with what it has done."""
    options = ["--job-name=kill", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1"]
    job = test.submit("several_nodes.sh", options, test.flags("trace", "kill.h5", LONG), SLURM_WAIT="3")
    test.wait_for_units(job, "kill.h5", 2)
    os.kill(test.rank_process(1), signal.SIGKILL)
    shown = test.cluster.wait(job, ("FAILED",), LIMIT)
    expect(shown["Restarts"] == "0" and shown["ExitCode"] == "137:0", f"the job was queued again, or ended otherwise: {shown}")
    job = test.submit("several_nodes.sh", options, test.flags("trace", "kill.h5", LONG))
    test.finish(job)
    expect("were done before" in test.log("kill"), f"the new job did not continue:\n{test.log('kill')}")
    expect_same(test.path("kill.h5"), check_ranks.whole(test.bench, "trace", LONG))


def facts(path):
    """{known_id: what its trace holds}."""
    with h5py.File(path) as file:
        known_ids = {f"/facts/{name}": int(group.attrs["known_id"]) for name, group in file["facts"].items()}
    found = {known_id: {} for known_id in known_ids.values()}
    for name, value in check_ranks.contents(path).items():
        name = "/" + name.lstrip("/")
        fact = "/".join(name.split("@")[0].split("/")[:3])
        # The place in the file is another one.
        if fact in known_ids and name != f"{fact}@record":
            found[known_ids[fact]][name[len(fact):]] = value
    return found


def array(test):
    """Three slices, of which one is interrupted: together they hold what one job does. The last task is the one whose number as a
    job is that of the array."""
    short = 36
    records = test.path("facts.json")
    json.dump(json.load(open(f"{ROOT}/data/world/known_facts.json"))[:short], open(records, "w"))
    flags = ["trace", f"{ROOT}/data/model", "--noise", "0.2865", "--window", "3", "--threads", "1"]
    job = test.submit("array.sh", ["--job-name=array", "--array=0-2", "--gpus-per-node=1"],
                      [*flags, "--facts", "{input}", "--output", test.path("slice{task}.h5")], INPUT=records, SLICES="3")
    test.wait_for_units(f"{job}_2", "slice2.h5", 1)
    test.cluster.call(["scancel", "--batch", "--signal=USR1", f"{job}_2"])
    test.cluster.start_again(f"{job}_2")
    for task in range(3):
        test.finish(f"{job}_{task}")
        restarts = test.cluster.show(f"{job}_{task}")["Restarts"]
        expect(restarts == ("1" if task == 2 else "0"), f"task {task} was started again {restarts} times")
    check_ranks.Run([test.loci, *flags, "--facts", records, "--output", test.path("all.h5")]).wait(0)
    together = {}
    for task in range(3):
        together.update(facts(test.path(f"slice{task}.h5")))
    alone = facts(test.path("all.h5"))
    expect(len(alone) == short and all(len(fact) > 5 for fact in alone.values()), f"{len(alone)} facts were traced")
    different = [known_id for known_id in alone if together.get(known_id) != alone[known_id]]
    expect(together == alone, f"the slices do not hold what one job does; other facts: {different}")


def without_pmix(test):
    """Tasks that do not know of each other would each do the whole job."""
    run = test.cluster.call(["srun", "--ntasks=2", "--mpi=none", test.loci, *test.flags("trace", "none.h5", 4)], check=False)
    expect(run.returncode == 2 and "srun --mpi=pmix" in run.stderr, f"exit code {run.returncode}:\n{run.stderr}")
    expect(not os.path.exists(test.path("none.h5.parts")), "a refused job leaves its folder behind")


SCENARIOS = (one_node, cancelled, several_nodes, killed, array, without_pmix)


def main():
    loci = os.path.abspath(sys.argv[1])
    reason = missing() if sys.argv[2] == "with-mpi" else "a build without MPI"
    if reason:
        print(f"skipped: {reason}")
        return 77
    # So that the cluster ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    bad = 0
    with tempfile.TemporaryDirectory(prefix="loci-slurm-") as work:
        cluster_folder = os.path.join(work, "cluster")
        os.mkdir(cluster_folder)
        try:
            with Cluster(cluster_folder, nodes=2) as cluster:
                test = Test(loci, cluster, work)
                for scenario in SCENARIOS:
                    begin = time.monotonic()
                    try:
                        scenario(test)
                        print(f"ok: {scenario.__name__}, {time.monotonic() - begin:.1f} s", flush=True)
                    except (Failure, check_ranks.Failure) as failure:
                        bad += 1
                        print(f"FAILED: {scenario.__name__}, {time.monotonic() - begin:.1f} s: {failure}", flush=True)
            left = cluster.processes()
            expect(not left, f"processes are left: {left}")
        except (Failure, check_ranks.Failure) as failure:
            bad += 1
            print(f"FAILED: the cluster: {failure}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
