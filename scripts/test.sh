#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests.
#   scripts/test.sh                      the release build
#   scripts/test.sh --sanitizers         also the AddressSanitizer and ThreadSanitizer builds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

presets=(cpu)
for argument in "$@"; do
  case "$argument" in
    --sanitizers) presets+=(asan tsan) ;;
    *) echo "test.sh: unknown flag $argument; the only one is --sanitizers" >&2; exit 2 ;;
  esac
done

scripts/setup.sh
for preset in "${presets[@]}"; do
  echo "== $preset: configure and build"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -- --quiet
  echo "== $preset: tests"
  ctest --preset "$preset" -j "$(nproc)"
done
