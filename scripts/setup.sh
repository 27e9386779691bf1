#!/usr/bin/env bash
# Installs what loci needs on Debian 12, from Debian's packages. Does nothing where all are there.
#   scripts/setup.sh          to build, test and plot
#   scripts/setup.sh test     the same
#   scripts/setup.sh demo     only what scripts/demo.sh needs: to build the command and to plot
set -euo pipefail

build=(
  g++ cmake ninja-build pkg-config git ca-certificates
  libdnnl-dev libopenblas-dev liblapacke-dev libhdf5-dev libarchive-dev libssl-dev zlib1g-dev
  libspdlog-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev
)
plot=(python3 python3-numpy python3-h5py python3-matplotlib)
test=(
  ccache clang libclang-rt-14-dev libgtest-dev libboost-context-dev libbenchmark-dev
  libopenmpi-dev openmpi-bin slurmctld slurmd slurm-client
  python3-regex python3-mwparserfromhell zstd
)

case "${1:-test}" in
  demo) packages=("${build[@]}" "${plot[@]}") ;;
  test) packages=("${build[@]}" "${plot[@]}" "${test[@]}") ;;
  *) echo "setup.sh: unknown argument $1; it takes demo or test" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup.sh: not root and no sudo; install these packages first: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
