#!/usr/bin/env bash
# Builds the CUDA preset, runs the GPU tests, compute-sanitizer, the golden checks, the table of deviations by precision, the
# determinism check and the benchmarks, and writes bench/results/gpu-CARD.json. Exits non-zero where a step failed.
#   scripts/gpu_report.sh [--peer-python PYTHON] [--rome CHECKOUT]     on a machine with a GPU and the project's dependencies
#   scripts/gpu_report.sh --bundle DIR ...                             with the programs of scripts/bundle.sh instead
#   scripts/gpu_report.sh --smoke --build build/cpu --output FILE      that the script itself works, without a GPU
#   scripts/gpu_report.sh --smoke --emulated --build build/cpu --output FILE     the same on the emulated device; minutes
#   scripts/gpu_report.sh --help                                       all flags
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The checks read HDF5 files: the first Python that can.
for python in python3 /usr/bin/python3; do
  if "$python" -c 'import h5py, numpy' 2>/dev/null; then
    exec "$python" "$root/bench/gpu_report.py" "$@"
  fi
done
echo "gpu_report.sh: python3 has no numpy or no h5py (Debian: python3-numpy python3-h5py): steps embedded, golden, precision, comparison will fail" >&2
exec python3 "$root/bench/gpu_report.py" "$@"
