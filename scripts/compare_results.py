#!/usr/bin/env python3
"""Runs the same jobs of two versions of loci on the embedded model and compares their results value by value.

    scripts/compare_results.py OLD NEW [--work FOLDER] [--only NAME,...]

OLD and NEW are commits, which are built (preset cpu) in worktrees under the work folder, or programs that are there
already (paths to `loci`). Every data set of every HDF5 result must be equal to the last bit. So must every attribute,
except those that say who made the file (commit, time, host). Both versions run on this machine: results of other
processors may differ in their last bits. The exit code is 0 where all is equal, 1 where something differs. The script
needs numpy and h5py, which Debian's /usr/bin/python3 has (packages python3-numpy and python3-h5py).
"""
import argparse
import filecmp
import json
import os
import pathlib
import subprocess
import sys

try:
    import h5py
    import numpy
except ModuleNotFoundError as error:
    sys.exit(f"compare_results.py: {error.name} is missing; install python3-numpy and python3-h5py and run it with /usr/bin/python3")

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORLD = ROOT / "data/world"
# Attributes and fields that say who made a result, not what it is.
PROVENANCE = {"date", "git_commit", "loci_version", "host", "peak_memory_bytes", "seconds",
              "edit_seconds", "score_seconds", "checksum"}


def jobs(text, training):
    """Name -> subcommand and options. `{out}` is the job's folder, `{root}` that of its version's jobs, `{old}` that of
    OLD's: both versions edit with OLD's second moments, whose hash stands in the configuration."""
    model = str(ROOT / "data/model")
    cov = "{old}/cov/cov.h5"
    edit = ["--hparams", f"{WORLD}/hparams.json", "--context-templates", f"{WORLD}/context_templates.json", "--cov", cov]
    records = ["--dataset", "counterfact", "--records", f"{WORLD}/records_tune.json", "--limit", "8"]
    requests = ["--requests", f"{WORLD}/records_tune.json", "--limit", "5"]
    trace = ["trace", model, "--facts", f"{WORLD}/known_facts.json", "--limit", "10", "--output", "{out}/trace.h5"]
    return {
        "cov": ["cov", model, "--text", text, "--max-tokens", "20000", "--layers", "0-4", "--output", "{out}/cov.h5"],
        "trace": trace + ["--samples", "3", "--window", "2"],
        "trace-severed": trace + ["--samples", "2", "--kinds", "state", "--sever", "mlp,attn"],
        "trace-replaced": trace + ["--samples", "2", "--noise", "u2", "--replace", "--window", "3"],
        "edit-rome": ["edit", model, "--method", "rome", "--output", "{out}/edit.h5"] + requests + edit,
        "edit-r-rome": ["edit", model, "--method", "r-rome", "--output", "{out}/edit.h5"] + requests + edit,
        "edit-p-rome": ["edit", model, "--method", "p-rome", "--output", "{out}/edit.h5"] + requests + edit,
        "edit-sequential": ["edit", model, "--method", "rome", "--sequential", "--export", "{out}/edited", "--output",
                            "{out}/edit.h5"] + requests + edit,
        "trace-edited": trace + ["--samples", "2", "--edits", "{root}/edit-rome/edit.h5"],
        "eval": ["eval", model, "--method", "rome", "--output", "{out}/eval.h5"] + records + edit,
        "eval-sequential": ["eval", model, "--method", "rome", "--sequential", "--output", "{out}/eval.h5"] + records + edit,
        "train": ["train", "--config", training, "--output", "{out}/model"],
        "generate": ["generate", model, "--prompt", "The capital of France is", "--max-tokens", "20", "--top-k", "5",
                     "--temperature", "1", "--seed", "3", "--json"],
        "predict": ["predict", model, "--prompt", "The capital of France is", "--top", "5", "--json"],
    }


def write_inputs(folder):
    """A training text and a configuration for a few steps."""
    subprocess.run([sys.executable, ROOT / "scripts/world/make_world.py", "--out", folder / "world", "--text", folder / "world"],
                   check=True, stdout=subprocess.DEVNULL)
    training = json.loads((WORLD / "train.json").read_text())
    training.update(tokenizer=str(ROOT / "data/model"), text=str(folder / "world/train.jsonl"), steps=6, validate_every=3,
                    validation_text=str(folder / "world/valid.jsonl"), checkpoint_every=3)
    (folder / "train.json").write_text(json.dumps(training))
    return str(folder / "world/train.jsonl"), str(folder / "train.json")


def program(version, work):
    """The `loci` of a version: as it is, or built from a commit."""
    if pathlib.Path(version).is_file():
        return pathlib.Path(version).resolve()
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"compare_results.py: {version} is neither a program nor a commit")
    tree = work / f"tree-{found.stdout.strip()}"
    if not tree.exists():
        subprocess.run(["git", "-C", ROOT, "worktree", "prune"], check=True)
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, found.stdout.strip()], check=True)
    for command in (["cmake", "--preset", "cpu", "-DLOCI_BUILD_TESTS=OFF", "-DLOCI_BUILD_BENCH=OFF"],
                    ["cmake", "--build", "--preset", "cpu", "--target", "loci", "--", "--quiet"]):
        subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return tree / "build/cpu/app/loci"


def run_all(loci, folder, old, inputs, only):
    os.makedirs(folder, exist_ok=True)
    for name, arguments in jobs(*inputs).items():
        if only and name not in only:
            continue
        out = folder / name
        out.mkdir(exist_ok=True)
        command = [a.format(out=out, root=folder, old=old) for a in arguments]
        done = subprocess.run([loci, *command], capture_output=True, text=True, cwd=folder)
        if "--json" in command:
            (out / "standard_output.json").write_text(done.stdout)
        if done.returncode:
            sys.exit(f"{loci} {' '.join(command)}\nended with exit code {done.returncode}: {done.stderr}")


def same_text(a, b, folders):
    for folder, name in zip(folders, ("OLD", "NEW")):
        a, b = a.replace(str(folder), "FOLDER"), b.replace(str(folder), "FOLDER")
    return a == b


def attribute_differences(where, a, b, folders):
    for name in sorted((set(a) | set(b)) - PROVENANCE):
        if name not in a or name not in b:
            yield f"{where}: attribute {name} is in one of them only"
        elif isinstance(a[name], str):
            if not same_text(a[name], str(b[name]), folders):
                yield f"{where}: attribute {name} differs"
        elif not numpy.array_equal(a[name], b[name]) and a[name].dtype != h5py.ref_dtype and name not in ("DIMENSION_LIST", "REFERENCE_LIST"):
            yield f"{where}: attribute {name} differs"


def hdf5_differences(old, new, folders):
    with h5py.File(old) as a, h5py.File(new) as b:
        names = [set(), set()]
        a.visit(names[0].add)
        b.visit(names[1].add)
        for name in sorted(names[0] ^ names[1]):
            yield f"{name} is in one of them only"
        yield from attribute_differences("/", a.attrs, b.attrs, folders)
        for name in sorted(names[0] & names[1]):
            if name == "checksums" or name.startswith("checksums/"):
                continue  # of attributes that name the commit, too
            yield from attribute_differences(name, a[name].attrs, b[name].attrs, folders)
            if isinstance(a[name], h5py.Dataset) and name.split("/")[-1] not in PROVENANCE:
                x, y = a[name][()], b[name][()]
                equal = x.shape == y.shape and x.dtype == y.dtype and (
                    x.tobytes() == y.tobytes() if x.dtype.kind in "fiu" else bool(numpy.all(x == y)))
                if not equal:
                    yield f"{name} differs"


def without_provenance(value):
    if isinstance(value, dict):
        return {key: without_provenance(item) for key, item in value.items() if key not in PROVENANCE}
    return [without_provenance(item) for item in value] if isinstance(value, list) else value


def differences(old, new, folders):
    if old.suffix == ".h5":
        yield from hdf5_differences(old, new, folders)
    elif old.suffix == ".json":
        texts = [json.dumps(without_provenance(json.loads(path.read_text())), sort_keys=True) for path in (old, new)]
        if not same_text(*texts, folders):
            yield "differs"
    elif not filecmp.cmp(old, new, shallow=False):
        yield "differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/compare")
    parser.add_argument("--only", default="", help="names of jobs, with those whose results they need")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    inputs = write_inputs(work)
    programs = [program(version, work) for version in (arguments.old, arguments.new)]
    folders = [work / "old", work / "new"]
    for loci, folder in zip(programs, folders):
        subprocess.run(["rm", "-rf", folder], check=True)
        run_all(loci, folder, folders[0], inputs, only)
    files = [{p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in folders]
    found = [f"{name} was written by one of them only" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        found += [f"{name}: {text}" for text in differences(folders[0] / name, folders[1] / name, folders)]
    for text in found:
        print(text)
    print(f"{len(files[0] & files[1])} files compared, {len(found)} differences")
    return 1 if found or not files[0] else 0


if __name__ == "__main__":
    sys.exit(main())
