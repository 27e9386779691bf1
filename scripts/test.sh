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

# check PRESET [FOLDER...]: builds and runs the tests of these folders, all where none is named.
check() {
  local preset=$1 folders=("${@:2}") targets=() labels=()
  if [ ${#folders[@]} -gt 0 ]; then
    targets=(--target "${folders[@]/%/_tests}")
    labels=(--label-regex "$(IFS='|'; echo "${folders[*]}")")
  fi
  echo "== $preset: configure and build"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" "${targets[@]}" -- --quiet
  echo "== $preset: tests"
  ctest --preset "$preset" -j "$(nproc)" --timeout 1500 "${labels[@]}"
}

scripts/setup.sh
check cpu
if [ "$sanitizers" = yes ]; then
  check asan
  # The folders whose own code runs on several threads; the others issue ops from one.
  check tsan runtime kernels model
fi
