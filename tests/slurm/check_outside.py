"""What the scripts say to those who start them without what they need: one sentence or the usage, and no traceback.

usage: check_outside.py
"""
import os
import subprocess
import sys

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts")
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
JOB = {**OUTSIDE, "SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": os.path.join(SCRIPTS, "..")}
CASES = [
    (["slurm/one_node.sh", "info", "data/model"], OUTSIDE, 2, "submit it with sbatch"),
    (["slurm/several_nodes.sh", "info", "data/model"], OUTSIDE, 2, "submit it with sbatch"),
    (["slurm/array.sh", "info", "data/model"], OUTSIDE, 2, "submit it with sbatch"),
    (["slurm/array.sh", "info", "data/model"], JOB, 2, "--array"),
    (["slurm/slice.py"], OUTSIDE, None, "slice.py"),
    (["show_edit.py"], OUTSIDE, None, "LOCI MODEL REQUEST.json EDITS.h5"),
]


def main():
    bad = 0
    for (script, *arguments), environment, code, part in CASES:
        program = ["bash"] if script.endswith(".sh") else [sys.executable]
        run = subprocess.run([*program, os.path.join(SCRIPTS, script), *arguments], env=environment, capture_output=True, text=True)
        said = run.stderr.strip()
        right = run.returncode == code if code is not None else run.returncode != 0
        right = right and part in said and "Traceback" not in said and "unbound" not in said
        if script.endswith(".sh"):
            right = right and said.startswith("error: ") and "\n" not in said
        if not right:
            bad += 1
            print(f"FAILED: {script} ended with {run.returncode} and said:\n{run.stderr}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
