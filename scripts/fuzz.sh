#!/usr/bin/env bash
# Fuzzes every reader of files that users hand in: builds the targets (tests/fuzz) with clang, under AddressSanitizer and UBSan,
# and runs each for some seconds from its corpus, as many at once as there are cores. Where one finds something, its input is kept,
# the command that replays it is printed, and the exit code is 1.
#   scripts/fuzz.sh [SECONDS [TARGET...]]     default: 60 seconds of each target
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-60}
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "fuzz.sh: \"$seconds\" is not a number of seconds" >&2; exit 2; }
shift || true
for tool in clang++ cmake ninja; do
  command -v "$tool" >/dev/null || { echo "fuzz.sh: $tool is missing (Debian: clang libclang-rt-14-dev cmake ninja-build)" >&2; exit 2; }
done
cmake --preset asan >/dev/null
cmake --build --preset asan --target loci_fuzz -- --quiet

program=build/asan/tests/fuzz/loci_fuzz
mapfile -t targets < <("$program" --list)
for name in "$@"; do
  [[ " ${targets[*]} " == *" $name "* ]] || { echo "fuzz.sh: the target $name is unknown; there are ${targets[*]}" >&2; exit 2; }
done
[ $# -eq 0 ] || targets=("$@")

# What an earlier run found beyond the corpus is built upon, in build/asan/fuzz/grown.
found=build/asan/fuzz/found
rm -rf "$found" && mkdir -p "$found" build/asan/fuzz/grown
export TMPDIR
TMPDIR=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/loci-fuzz-XXXXXX")
trap 'rm -rf "$TMPDIR"' EXIT

run() {
  local name=$1
  mkdir -p "build/asan/fuzz/grown/$name"
  # HDF5 keeps what a damaged file made it allocate, which is no leak of ours.
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 \
    "$program" --target="$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=16384 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$found/$name-" "build/asan/fuzz/grown/$name" "tests/fuzz/corpus/$name" >"$found/$name.log" 2>&1
}

failed=()
wait_for_one() {  # waits for one of the running targets, and remembers those that found something
  local process name
  wait -n -p process || failed+=("${running[$process]}")
  name=${running[$process]}
  printf '%-14s %10s inputs\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$found/$name.log")"
  unset "running[$process]"
}
declare -A running=()
for name in "${targets[@]}"; do
  [ "${#running[@]}" -lt "$(nproc)" ] || wait_for_one
  run "$name" &
  running[$!]=$name
done
while [ "${#running[@]}" -gt 0 ]; do wait_for_one; done

for name in "${failed[@]}"; do
  echo "fuzz.sh: $name failed:"
  grep -E -m1 'what\(\)|ERROR: |runtime error|timeout|out-of-memory' "$found/$name.log" || tail -n 5 "$found/$name.log"
  for input in "$found/$name"-*; do
    [ ! -e "$input" ] || echo "  the input is kept; replay it: $program --target=$name $input"
  done
done
[ "${#failed[@]}" -eq 0 ]
