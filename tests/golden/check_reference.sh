#!/usr/bin/env bash
# Runs the check script that comes with the reference's outputs; exits with 77 (skipped) where they are not there.
#   check_reference.sh PYTHON SOURCE_DIR LOCI
set -euo pipefail
python=$1 source=$2 loci=$3
shared=${LOCI_TEST_DATA:-$source/../shared}
if [ ! -f "$shared/golden/check.py" ]; then
  echo "skipped: no reference outputs at $shared/golden"
  exit 77
fi
exec "$python" "$shared/golden/check.py" "$shared/golden/tiny-a" --loci "$loci"
