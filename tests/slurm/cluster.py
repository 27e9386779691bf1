"""A Slurm cluster of one's own on this machine: a real slurmctld and a slurmd for each of its pretended nodes, in a folder."""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
STARTING = 30  # seconds until the nodes must be there

SLURM_CONF = """
ClusterName=loci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
KillWait=10
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/spool.%n
PartitionName=all Nodes=ALL Default=YES MaxTime=1:00:00 State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 Gres=gpu:2 State=UNKNOWN\n"


class Failure(Exception):
    pass


def missing():
    """Why there can be no cluster here; None where there can."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=search_path())]
    if absent:
        return f"no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "slurmd wants root"


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment_of(process):
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def end_with_parent():
    """For a child: SIGTERM when the test is killed and cannot end it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Cluster:
    """Use it in a `with`: the daemons and what they have started end with it, whatever happens."""

    def __init__(self, folder, nodes):
        self.folder, self.nodes = folder, [f"node{i}" for i in range(nodes)]
        self.mark = f"SLURM_CONF={folder}/slurm.conf"
        # Nothing of a job that runs this test.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "PMIX"))}
        self.environment.update(SLURM_CONF=f"{folder}/slurm.conf", PATH=search_path())
        self.daemons = {}

    def __enter__(self):
        try:
            self.configure()
            self.start("slurmctld", ["slurmctld", "-D"])
            for node in self.nodes:
                self.start(f"slurmd.{node}", ["slurmd", "-D", "-N", node])
            self.wait_for_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def configure(self):
        host = socket.gethostname().split(".")[0]
        port, *node_ports = free_ports(1 + len(self.nodes))
        os.makedirs(f"{self.folder}/state")
        with open(f"{self.folder}/slurm.conf", "w") as file:
            file.write(SLURM_CONF.format(host=host, port=port, folder=self.folder))
            for node, node_port in zip(self.nodes, node_ports):
                os.makedirs(f"{self.folder}/spool.{node}")
                file.write(NODE.format(name=node, host=host, port=node_port))
        with open(f"{self.folder}/gres.conf", "w") as file:
            # Devices that are everywhere: Slurm only counts them.
            file.write("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")

    def start(self, name, command):
        with open(self.log(name), "w") as log:
            self.daemons[name] = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log, start_new_session=True, preexec_fn=end_with_parent)

    def log(self, name):
        return f"{self.folder}/{name}.log"

    def wait_for_nodes(self):
        deadline = time.monotonic() + STARTING
        while True:
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    raise Failure(f"{name} ended with {daemon.returncode}: {open(self.log(name)).read()[-2000:]}")
            shown = self.call(["scontrol", "show", "nodes", "--oneliner"], check=False).stdout.splitlines()
            if len(shown) == len(self.nodes) and all("State=IDLE " in line for line in shown):
                return
            if time.monotonic() > deadline:
                logs = "".join(f"{name}: {open(self.log(name)).read()[-1000:]}\n" for name in self.daemons)
                raise Failure(f"the nodes are not there after {STARTING} s: {shown}\n{logs}")
            time.sleep(0.1)

    def stop(self):
        """Jobs first, then the daemons, then what they have left."""
        if self.daemons:
            self.call(["scancel", "--user=root"], check=False)
        deadline = time.monotonic() + 5
        while self.daemons and self.call(["squeue", "--noheader"], check=False).stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.1)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def processes(self):
        """Of daemons and jobs: all have this cluster's configuration in their environment."""
        mark = self.mark.encode()
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and mark in environment_of(name)]

    def call(self, command, check=True, **environment):
        """A Slurm command; Failure with what it said where it fails."""
        done = subprocess.run(command, env={**self.environment, **environment}, cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        if check and done.returncode:
            raise Failure(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def submit(self, *arguments, **environment):
        """The number of the job."""
        return self.call(["sbatch", "--parsable", *arguments], **environment).stdout.strip()

    def show(self, job):
        """What Slurm knows of a job or a task of an array: {"JobState": "RUNNING", ...}."""
        line = self.call(["scontrol", "show", "job", job, "--oneliner"]).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def wait(self, job, states, limit=60):
        """Until the job is in one of these states; Failure for another end."""
        deadline = time.monotonic() + limit
        while True:
            shown = self.show(job)
            state = shown["JobState"]
            if state in states:
                return shown
            if state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") or time.monotonic() > deadline:
                raise Failure(f"job {job} is {state} (exit code {shown['ExitCode']}), not {' or '.join(states)}\n{self.output(shown)}")
            time.sleep(0.05)

    def output(self, shown):
        try:
            with open(shown["StdOut"]) as file:
                return file.read()[-3000:]
        except (KeyError, OSError):
            return "it has written nothing"

    def start_again(self, job, limit=60):
        """Waits until a job is queued again, and spares it the delay before its next start."""
        deadline = time.monotonic() + limit
        while True:
            shown = self.wait(job, ("RUNNING", "COMPLETING", "PENDING"))
            if shown["Restarts"] == "1" and shown["JobState"] == "PENDING":
                break
            if time.monotonic() > deadline:
                raise Failure(f"job {job} is not queued again\n{self.output(shown)}")
            time.sleep(0.05)
        # Nodes refuse a start in the second of the end before.
        time.sleep(2)
        self.call(["scontrol", "update", f"jobid={job}", "StartTime=now"])
