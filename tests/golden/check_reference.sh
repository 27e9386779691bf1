#!/usr/bin/env bash
# Runs the check script that comes with the reference's outputs; exits with 77 (skipped) where they are not there.
#   check_reference.sh PYTHON SOURCE_DIR LOCI [DEVICE]
set -euo pipefail
python=$1 source=$2 loci=$3 device=${4:-cpu}
shared=${LOCI_TEST_DATA:-$source/../shared}
if [ ! -f "$shared/golden/check.py" ]; then
  echo "skipped: no reference outputs at $shared/golden"
  exit 77
fi
said=$("$loci" predict "$source/data/model" --prompt a --device "$device" 2>&1 >/dev/null) || case $said in
  *"no CUDA device is usable here"*) echo "skipped: $said"; exit 77 ;;
esac
exec "$python" "$shared/golden/check.py" "$shared/golden/tiny-a" --loci "$loci" --device "$device"
