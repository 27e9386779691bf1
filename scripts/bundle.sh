#!/usr/bin/env bash
# Makes a folder that runs on a machine with a GPU and without the project's dependencies: loci, the GPU tests, the benchmarks
# and the libraries they need. CUDA's own libraries, the C and the C++ library are those of that machine.
#   scripts/bundle.sh [--architectures 90-real] [--golden DIR] [--tokenizer DIR] [--rome CHECKOUT] [--without-nccl] [--archive] DIR
# --golden takes the reference's outputs in, --tokenizer a vocab.json and merges.txt for the benchmark's model, --rome the reference's
# sources; --without-nccl is for a machine that has no NCCL (PyTorch brings it). --archive also writes DIR.tar.xz, which travels.
# There: scripts/gpu_report.sh --bundle DIR.tar.xz --time-limit 500
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/bundle
architectures=90-real golden='' tokenizer='' rome='' nccl=AUTO archive=no target=''

while [ $# -gt 0 ]; do
  case "$1" in
    --architectures) architectures=$2; shift ;;
    --golden) golden=$2; shift ;;
    --tokenizer) tokenizer=$2; shift ;;
    --rome) rome=$2; shift ;;
    --without-nccl) nccl=OFF ;;
    --archive) archive=yes ;;
    -*) echo "bundle.sh: unknown flag $1" >&2; exit 2 ;;
    *) target=$1 ;;
  esac
  shift
done
[ -n "$target" ] || { echo "bundle.sh: name the folder to make" >&2; exit 2; }

# DT_RPATH, unlike the newer DT_RUNPATH, also leads the libraries to each other.
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLOCI_CUDA=ON \
  "-DCMAKE_CUDA_ARCHITECTURES=$architectures" '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib' \
  -DLOCI_MPI=OFF "-DLOCI_NCCL=$nccl" -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags >/dev/null
programs=(loci kernels_bench forward_bench)
tests=()
for folder in runtime kernels model trace edit eval; do
  [ -f "$root/tests/$folder/CMakeLists.txt" ] && tests+=("${folder}_tests")
done
cmake --build "$build" --target "${programs[@]}" "${tests[@]}" -- --quiet

rm -rf "$target"
mkdir -p "$target/bin" "$target/lib"

# The tests that are labelled gpu, with the precisions they run in.
ctest --test-dir "$build" -L gpu --show-only=json-v1 2>/dev/null | python3 -c '
import json, sys
sys.path.insert(0, sys.argv[1] + "/bench")
from gpu_report import list_gpu_tests
json.dump(list_gpu_tests(json.load(sys.stdin)), open(sys.argv[2] + "/tests.json", "w"), indent=1)' "$root" "$target"
mapfile -t tests < <(python3 -c 'import json, sys; print("\n".join(json.load(open(sys.argv[1]))))' "$target/tests.json")
for program in "${programs[@]}" "${tests[@]}"; do
  cp "$(find "$build" -type f -name "$program" -perm -u+x -print -quit)" "$target/bin/"
done

# What these need, and what that needs in turn. Of CUDA's libraries only the names are kept, for the script `run`.
ldd "$target"/bin/* | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u |
  while read -r name path; do
    case "$name" in
      libc.so*|libm.so*|libdl.so*|libpthread.so*|librt.so*|libresolv.so*|libstdc++.so*|libgcc_s.so*|libcuda.so*) ;;
      libcublas*|libcusolver*|libcusparse*|libnvJitLink*|libcudart*|libnvrtc*|libnccl*) echo "$name" >>"$target/cuda-libraries" ;;
      *) cp -L "$path" "$target/lib/$name" ;;
    esac
  done
# Nothing but these may come from the system, or the other machine would have to have it.
missing=$(ldd "$target"/bin/* | awk '$2 == "=>" {print $1, $3}' | grep -v " $(realpath "$target")/" | sort -u |
  grep -Ev '^(libc|libm|libdl|libpthread|librt|libresolv|libstdc\+\+|libgcc_s|libcublas|libcublasLt|libcusolver|libcusparse|libnvJitLink|libcudart|libnvrtc|libnccl)\.so' || true)
[ -z "$missing" ] || { echo "bundle.sh: not taken along: $missing" >&2; exit 1; }
find "$target/bin" "$target/lib" -type f -exec chmod u+w {} + -exec strip --strip-unneeded {} +

cat >"$target/run" <<'RUN'
#!/usr/bin/env bash
# Runs one of the programs beside this script:  run NAME ARGUMENT...      run --library-path: where CUDA's libraries are
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folders=(/usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib)
for python in python3 /usr/bin/python3; do
  while read -r folder; do folders+=("$folder"/*/lib); done < <("$python" -c \
    'import sys; print("\n".join(p + "/nvidia" for p in sys.path if p.endswith("-packages")))' 2>/dev/null)
done
found=''
while read -r library; do
  for folder in "${folders[@]}"; do
    if [ -e "$folder/$library" ]; then
      [[ ":$found:" == *":$folder:"* ]] || found=$found${found:+:}$folder
      continue 2
    fi
  done
  ldconfig -p 2>/dev/null | grep "$library" >/dev/null || echo "run: $library was not found" >&2
done <"$here/cuda-libraries"
path=$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ "$1" != --library-path ] || { echo "$path"; exit; }
LD_LIBRARY_PATH=$path exec "$here/bin/$1" "${@:2}"
RUN
chmod +x "$target/run"

if [ -n "$golden" ]; then
  mkdir "$target/golden"
  cp -r "$golden"/. "$target/golden/"
  chmod -R u+w "$target/golden"
fi
if [ -n "$tokenizer" ]; then
  mkdir "$target/tokenizer"
  cp "$tokenizer/vocab.json" "$tokenizer/merges.txt" "$target/tokenizer/"
fi
if [ -n "$rome" ]; then
  mkdir "$target/rome"
  (cd "$rome" && find . -name '*.py' -o -name globals.yml -o -name LICENSE) | tar -C "$rome" -c -T - | tar -C "$target/rome" -x
fi
du -sh "$target"
if [ "$archive" = yes ]; then
  tar -C "$(dirname "$target")" -c "$(basename "$target")" | xz -T0 -9 >"$target.tar.xz"
  du -h "$target.tar.xz"
fi
