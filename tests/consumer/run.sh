#!/usr/bin/env bash
# Installs a built loci into a fresh folder, builds the consumer project against it and runs it.
#   run.sh BUILD_DIR CXX_COMPILER
set -euo pipefail
build=$1 compiler=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >/dev/null
cmake -S "$here" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/build" >/dev/null
"$work/build/consumer"
"$work/prefix/bin/loci" --version
# What the command describes of itself is installed with it.
for file in bash-completion/completions/loci zsh/site-functions/_loci fish/vendor_completions.d/loci.fish; do
  grep -q facts "$work/prefix/share/$file"
done
grep -q 'loci\\-trace' "$work/prefix/share/man/man1/loci-trace.1"
# The scripts that draw figures find the Python package beside themselves.
if /usr/bin/python3 -c "import h5py, matplotlib" 2>/dev/null; then
  for result in trace edit comparison; do "$work/prefix/share/loci/plot_$result.py" --help | grep -q -e --output; done
fi
if command -v man >/dev/null; then man -l "$work/prefix/share/man/man1/loci.1" | grep -q 'EXIT STATUS'; fi
