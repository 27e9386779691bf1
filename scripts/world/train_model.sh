#!/usr/bin/env bash
# Makes a model like data/model from nothing but this repository: world, tokenizer, training. Continues where it was
# interrupted.
#   scripts/world/train_model.sh [OUTPUT_DIR] [flags of `loci train`]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

output=${1:-out/model}
shift || true
loci=${LOCI:-$(scripts/built_loci.sh)}
scripts/world/make_world.py --seed 1
scripts/world/train_tokenizer.py build/world/train.jsonl build/world --vocab 2500
"$loci" train --config data/world/train.json --output "$output" "$@"
scripts/world/check_recall.py "$loci" "$output"
