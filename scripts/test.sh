#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests.
#   scripts/test.sh                      the release build
#   scripts/test.sh --sanitizers         also the AddressSanitizer and ThreadSanitizer builds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sanitizers=no
for argument in "$@"; do
  case "$argument" in
    --sanitizers) sanitizers=yes ;;
    *) echo "test.sh: unknown flag $argument; the only one is --sanitizers" >&2; exit 2 ;;
  esac
done

# check PRESET [LABEL...]: builds and runs the tests with these labels, all where none is named.
check() {
  local preset=$1 wanted=("${@:2}") targets=() labels=()
  if [ ${#wanted[@]} -gt 0 ]; then
    targets=(--target "${wanted[@]/%/_tests}")
    labels=(--label-regex "$(IFS='|'; echo "${wanted[*]}")")
  fi
  echo "== $preset: configure and build"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" "${targets[@]}" -- --quiet
  echo "== $preset: tests"
  ctest --preset "$preset" -j "$(nproc)" --timeout 1500 "${labels[@]}"
}

scripts/setup.sh
# The cuda build has all tests of the cpu build; the sanitizer builds are without CUDA, so both kinds are built.
if command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
  check cuda
else
  check cpu
fi
if [ "$sanitizers" = yes ]; then
  check asan
  # The folders whose own code runs on several threads, and the CUDA kernels under emulation; the others issue ops from
  # one thread.
  check tsan runtime ranks kernels model emulation kernels_emulation model_emulation
fi
