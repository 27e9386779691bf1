#!/usr/bin/env bash
# The whole path on the embedded model, in out/demo/: installs what is missing, builds, traces facts, collects second moments,
# edits a well-known fact, evaluates edits of records that no choice was made on, draws the figures and puts them on one page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

echo "This takes about five minutes on two cores; four of them are the build, which happens once."
scripts/setup.sh demo

preset=cpu
if nvidia-smi -L >/dev/null 2>&1 && { command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }; then
  preset=cuda
fi
# A build for developers is used where there is one; the demo's own is without tests and benchmarks.
build=build/$preset
if [ ! -e "$build/CMakeCache.txt" ]; then
  build=build/demo
  echo "== configure"
  cmake --preset "$preset" -B "$build" -DLOCI_BUILD_TESTS=OFF -DLOCI_BUILD_BENCH=OFF >/dev/null
fi
echo "== build (the numbers count files)"
cmake --build "$build" --target loci

loci=$build/app/loci
python=/usr/bin/python3
model=data/model
world=data/world
out=out/demo
rm -rf "$out"
mkdir -p "$out"

echo "== model"
"$loci" info "$model"

echo "== one causal trace: where does the model recall the country of Geneva?"
"$loci" trace "$model" --prompt "The city of Geneva belongs to the country of" --subject Geneva --window 3 --output "$out/geneva.h5" --figure "$out/geneva.png"

echo "== causal traces of 100 facts (states, MLP and attention; severed graphs)"
"$loci" trace "$model" --facts "$world/known_facts.json" --limit 100 --sever mlp,attn --window 3 --output "$out/trace.h5"
# Guangzhou, Geneva, Nicolaus Copernicus, and one of the facts that the early layers at the subject do not bring back: the Eiffel Tower.
"$python" scripts/plot_trace.py "$out/trace.h5" --output "$out/figures" --facts 2,4,10,3

echo "== second moments over the training text"
"$python" scripts/world/make_world.py --out "$out/world" --text "$out/world" >/dev/null
"$loci" cov "$model" --text "$out/world/train.jsonl" --max-tokens 400000 --layers "$("$python" -c "import json; print(json.load(open('$world/hparams.json'))['layers'][0])")" \
  --output "$out/second_moments.h5"

edit=(--method rome --cov "$out/second_moments.h5" --hparams "$world/hparams.json" --context-templates "$world/context_templates.json")
echo "== one edit, at the layer and token that the trace shows: Geneva moves to Italy"
"$loci" edit "$model" --requests "$world/demo_request.json" --output "$out/edit.h5" --export "$out/edited_model" "${edit[@]}"
"$python" scripts/show_edit.py "$loci" "$model" "$world/demo_request.json" "$out/edit.h5" | tee "$out/edit.txt"
"$python" scripts/plot_edit.py "$out/edit.h5" --output "$out/edit"

echo "== 300 records that no choice was made on: each edited on its own, scored before and after"
"$loci" eval "$model" --dataset counterfact --records "$world/records_test.json" --output "$out/eval.h5" "${edit[@]}"
"$loci" export "$out/eval.h5" --format csv --output "$out/eval"

echo "== a report: one page that can be given away"
PYTHONPATH=python "$python" -m loci.report "$out"/{trace,second_moments,edit,eval}.h5 --output "$out/report.html" --title "loci: the demo's results"

echo "== figures and tables, all on one page"
"$python" scripts/contact_sheet.py "$out" --title "loci: the demo's figures and tables"
