#!/usr/bin/env python3
"""No include points upwards: check_includes.py [ROOT].

Each room (a folder, or what is named here of one) may include itself and the rooms before it. "edit/*" are the folders of the
methods, of which none knows another. The order is the project's structure; docs/design.md describes it.
"""
import os
import re
import sys

ORDER = [
    "runtime", "runtime/emulation", "runtime/io", "runtime/ranks", "runtime/jobs",
    "kernels",
    "model/rotary.*", "model/architecture.*", "model/families", "model", "model/text", "model/loaded_model.*", "model/executor", "model/generation.*", "model/train",
    "records",
    "trace",
    "edit/change.*", "edit/common", "edit/moments", "edit", "edit/common/moment_system.*", "edit/common/layerwise.*", "edit/*", "edit/methods.*", "edit/edit_job.*",
    "eval",
    "app/export", "app",
]
# On the host, the emulator stands in for CUDA's own headers, which come before everything.
STAND_INS = {("runtime/cuda_launch.h", "runtime/emulation/simt.h")}
SUFFIXES = (".h", ".cpp", ".cu")
INCLUDE = re.compile(r'^\s*#\s*include "([^"]+)"', re.M)


def room(path):
    """The entry of ORDER that holds a file: its own, NAME.*, its folder's, or that of its parent's folders; None outside the product."""
    own, folder = path.rsplit(".", 1)[0] + ".*", os.path.dirname(path)
    return next((name for name in (own, folder, os.path.dirname(folder) + "/*") if name in ORDER), None)


def faults_of(path, text):
    """What is wrong with the includes of one file of the product, as sentences."""
    own = room(path)
    if own is None:
        return [f"{path}: its folder is not in the list of rooms in tests/structure/check_includes.py; add it"]
    faults = []
    for included in INCLUDE.findall(text):
        other = room(included)
        if other is None:
            if included.startswith(("tests/", "bench/")):
                faults.append(f"{path}: includes {included}, which is not part of the product")
        elif ORDER.index(other) > ORDER.index(own) and (path, included) not in STAND_INS:
            faults.append(f"{path}: includes {included}, but {other} comes after {own}")
        elif own == other and own.endswith("/*") and os.path.dirname(path) != os.path.dirname(included):
            faults.append(f"{path}: includes {included}, but {own} do not know each other")
    return faults


def sources(root):
    for top in sorted({name.split("/")[0] for name in ORDER}):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith(SUFFIXES):
                    yield os.path.relpath(os.path.join(folder, name), root)


def check_the_check():
    assert faults_of("kernels/gemm.h", '#include "model/model.h"\n'), "an include upwards is not found"
    assert faults_of("runtime/io/json.cpp", '#include "runtime/jobs/progress.h"\n'), "an include of a later room is not found"
    assert faults_of("app/cov.cpp", '#include "tests/support/paths.h"\n'), "an include of the tests is not found"
    assert faults_of("edit/memit/memit.cpp", '#include "edit/rome/rome.h"\n'), "a method that knows another is not found"
    assert faults_of("news/x.cpp", ""), "a folder that is not listed is not found"
    assert not faults_of("kernels/gemm.h", '#include "runtime/io/json.h"\n#include <model/x.h>\n'), "an include downwards is refused"


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../..")
    check_the_check()
    paths = list(sources(root))
    faults = []
    for path in paths:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            faults += faults_of(path, file.read())
    print("\n".join(faults) or f"{len(paths)} files: no include points upwards")
    return 1 if faults or len(paths) < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
