"""Runs communicator_ranks under mpirun and checks how it ends.

usage: check_communicator.py PROGRAM MPIRUN RANKS SCENARIO...
Exits with 77, which ctest reports as skipped, where mpirun is missing or the build has no MPI.
"""
import os
import subprocess
import sys
import tempfile
import time

import mpirun

# Scenario: exit code, and what standard error must hold, for 3 ranks of which rank 1 is at fault.
FAULTS = {
    "throw": (2, "rank 1: the culprit found a fault"),
    "stop": (6, "rank 1 of 3 did not come to the end of the test within 2 s; it hangs or was lost: see its log"),
    "hang": (6, "rank 1 of 3 did not come to the end of the test within 2 s; it hangs or was lost: see its log"),
    "kill": (137, "on signal 9 (Killed)"),
    "stop_anywhere": (6, "within 2 s; it hangs or was lost"),
    "kill_anywhere": (137, "on signal 9 (Killed)"),
    "mismatch": (4, "the ranks are out of step"),
}


def run(launcher, ranks, program, scenario):
    command = mpirun.command(launcher, ranks) + [program, scenario]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begin = time.monotonic()
        code = subprocess.run(command, env=mpirun.environment(), stdout=output, stderr=errors, timeout=240).returncode
        output.seek(0), errors.seek(0)
        return code, output.read(), errors.read(), time.monotonic() - begin


def check(launcher, ranks, program, scenario):
    code, output, errors, seconds = run(launcher, ranks, program, scenario)
    expected_code, expected_text = FAULTS.get(scenario, (0, ""))
    done = f"{ranks} ranks are done" in output
    good = code == expected_code and expected_text in errors and done == (expected_code == 0)
    print(f"{'ok' if good else 'FAILED'}: {scenario} with {ranks} ranks, exit code {code}, {seconds:.1f} s")
    if not good:
        print(f"expected exit code {expected_code} and '{expected_text}'\n--- output\n{output}\n--- errors\n{errors}")
    return good


def main():
    program, launcher, ranks, *scenarios = sys.argv[1:]
    if not os.path.exists(launcher):
        print("skipped: no mpirun, or a build without MPI")
        return 77
    results = [check(launcher, int(ranks), program, scenario) for scenario in scenarios]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
