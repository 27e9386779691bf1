#!/usr/bin/env bash
#SBATCH --job-name=loci
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=loci-%j.log
# A loci command on several nodes, one rank per GPU. Model, inputs and output lie where all nodes see them:
#   sbatch --nodes=8 scripts/slurm/several_nodes.sh eval MODEL --dataset counterfact --records R.json ... --output E.h5
# Otherwise as one_node.sh.
set -euo pipefail
if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${SLURM_SUBMIT_DIR:-}" ]; then
  echo "error: this is a job script: submit it with sbatch $0 COMMAND ...; without Slurm, run loci COMMAND ... --ranks N" >&2
  exit 2
fi
LOCI_HOME=${LOCI_HOME:-$SLURM_SUBMIT_DIR}
LOCI=${LOCI:-$("$LOCI_HOME/scripts/built_loci.sh")}
# shellcheck source=scripts/slurm/run_step.sh
source "$LOCI_HOME/scripts/slurm/run_step.sh"

run_step "$LOCI" "$@"
