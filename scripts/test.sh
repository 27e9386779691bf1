#!/usr/bin/env bash
# Installs what is missing, builds and runs all tests.
#   scripts/test.sh                       the release build; with CUDA where nvcc is found
#   scripts/test.sh --sanitizers          also the AddressSanitizer and ThreadSanitizer builds, as continuous integration does
#   scripts/test.sh --all-architectures   CUDA code for every supported card, as for a release; else for one, with PTX for the others
# tests/README.md says which part runs which tests, and why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sanitizers=no architectures=(-DCMAKE_CUDA_ARCHITECTURES=80)
for argument in "$@"; do
  case "$argument" in
    --sanitizers) sanitizers=yes ;;
    --all-architectures) architectures=() ;;
    *) echo "test.sh: unknown flag $argument; the flags are --sanitizers and --all-architectures" >&2; exit 2 ;;
  esac
done

# build PRESET "CONFIGURE FLAGS" [TARGET...]: all targets where none is named.
build() {
  local preset=$1 flags=$2 targets=("${@:3}")
  [ ${#targets[@]} -eq 0 ] || targets=(--target "${targets[@]}")
  echo "== $preset: build (after $SECONDS s)"
  # shellcheck disable=SC2086
  cmake --preset "$preset" $flags >/dev/null
  cmake --build --preset "$preset" "${targets[@]}" -- --quiet
}

# run PRESET [CTEST FLAG...]
run() {
  echo "== $1: tests (after $SECONDS s)"
  ctest --preset "$1" -j $(($(nproc) + 1)) --timeout 1500 "${@:2}"  # one more, since some of them wait
}

scripts/setup.sh
release=cpu flags=''
if command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
  release=cuda flags=${architectures[*]}
fi
if [ "$sanitizers" = no ]; then
  build "$release" "$flags"
  run "$release"
else
  # Optimised: everything that computes. What runs on the emulated device, and what only reads, writes and refuses, runs
  # once, where a wrong access is found.
  build "$release" "$flags" loci {forward,tokenizer,kernels,kernels_emulation,forward_emulation}_bench \
    {kernels,model,trace,edit}_tests communicator_ranks
  run "$release" --label-exclude '^emulation\.' --exclude-regex '^(runtime|records|eval|app|fuzz)\.[A-Z]|_NOT_BUILT$'
  # Whole jobs on several ranks would take minutes here. What they share is tested all the same: communicators, units and
  # stores in runtime, trainings on ranks in model. Equal bits with any number of threads are those of optimised kernels.
  build asan ''
  run asan --exclude-regex '^(mpi\.ranks|app\.ranks|slurm)|GemmThreads$'
  echo "== fuzz: 3 s of each target (after $SECONDS s)"
  scripts/fuzz.sh 3
  # What has threads of its own, and the kernels, whose emulated threads race where a barrier is missing. Products in tf32
  # are left out: their kernels are the templates of bf16, which has some of its own besides. So is the smaller card, whose
  # kernels are among the others.
  build tsan '' runtime_tests nccl_tests kernels_tests emulation_tests kernels_emulation_tests
  run tsan --label-regex '^(runtime|kernels|emulation|emulation\.kernels)$' --exclude-regex '^emulation\.kernels\.(tf32|small_card)\.|GemmThreads$'
fi
echo "== all tests passed (after $SECONDS s)"
