#!/usr/bin/env bash
# Builds the CUDA preset, compares with the reference's results in fp32, runs the GPU tests, the table of deviations by precision,
# GPT-2 XL beside the reference, the kernels' benchmarks and compute-sanitizer, in this order, and writes
# bench/results/gpu-CARD.json. Exits with 1 where a step failed or did not finish, with 2 where there is no GPU. Run again, it takes
# only what failed or is missing in the report.
#   scripts/gpu_report.sh [--peer-python PYTHON] [--rome CHECKOUT]     on a machine with a GPU and the project's dependencies
#   scripts/gpu_report.sh --bundle DIR.tar.xz --time-limit 500         with the programs of scripts/bundle.sh instead, in 500 s
#   scripts/gpu_report.sh --smoke --build build/cpu --output FILE      that the script itself works, without a GPU
#   scripts/gpu_report.sh --smoke --emulated --build build/cpu --output FILE     the same on the emulated device; minutes
#   scripts/gpu_report.sh --help                                       all flags
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The checks need numpy; without h5py they read HDF5 files by bench/without_h5py.
for modules in numpy,h5py numpy; do
  for python in python3 /usr/bin/python3; do
    if "$python" -c "import $modules" 2>/dev/null; then
      exec "$python" "$root/bench/gpu_report.py" "$@"
    fi
  done
done
echo "gpu_report.sh: python3 has no numpy (Debian: python3-numpy)" >&2
exit 2
