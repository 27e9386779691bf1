#!/usr/bin/env bash
# Prints the path of the program that was built in this checkout: with CUDA where both kinds were.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for preset in cuda cpu demo; do
  if [ -x "$root/build/$preset/app/loci" ]; then
    echo "$root/build/$preset/app/loci"
    exit 0
  fi
done
echo "built_loci.sh: there is no program in $root/build; build it first (README.md), or say in LOCI where it is" >&2
exit 1
