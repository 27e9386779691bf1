#!/usr/bin/env bash
# The whole path on the embedded model, in out/demo/: installs what is missing, builds, traces facts, collects second moments,
# edits a well-known fact, evaluates edits of records that no choice was made on, and draws the figures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
echo "== build"
preset=cpu
if nvidia-smi -L >/dev/null 2>&1 && { command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }; then
  preset=cuda
fi
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target loci -- --quiet

loci=build/$preset/app/loci
python=/usr/bin/python3
model=data/model
world=data/world
out=out/demo
rm -rf "$out"
mkdir -p "$out"

echo "== model"
"$loci" info "$model"

echo "== causal traces of 100 facts (states, MLP and attention; severed graphs)"
"$loci" trace "$model" --facts "$world/known_facts.json" --limit 100 --sever mlp,attn --window 3 --output "$out/trace.h5"
"$python" scripts/plot_trace.py "$out/trace.h5" --output "$out/figures" --first 4

echo "== second moments over the training text"
"$python" scripts/world/make_world.py --out "$out/world" --text "$out/world" >/dev/null
"$loci" cov "$model" --text "$out/world/train.jsonl" --max-tokens 400000 --layers "$("$python" -c "import json; print(json.load(open('$world/hparams.json'))['layers'][0])")" \
  --output "$out/second_moments.h5"

edit=(--method rome --cov "$out/second_moments.h5" --hparams "$world/hparams.json" --context-templates "$world/context_templates.json")
echo "== one edit: the Eiffel Tower moves to Rome"
"$loci" edit "$model" --requests "$world/demo_request.json" --output "$out/edit.h5" --export "$out/edited_model" "${edit[@]}"
"$python" scripts/show_edit.py "$loci" "$model" "$world/demo_request.json" "$out/edit.h5"

echo "== 300 records that no choice was made on: each edited on its own, scored before and after"
"$loci" eval "$model" --dataset counterfact --records "$world/records_test.json" --output "$out/eval.h5" "${edit[@]}"
"$loci" export "$out/eval.h5" --format csv --output "$out/eval"

echo "== figures and tables"
find "$out" -maxdepth 2 \( -name '*.png' -o -name '*.csv' \) | sort
