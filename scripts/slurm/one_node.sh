#!/usr/bin/env bash
#SBATCH --job-name=loci
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=loci-%j.log
# A loci command on one node, one rank per GPU:
#   sbatch scripts/slurm/one_node.sh trace MODEL --facts FACTS.json --output TRACE.h5
# Submit it from the root of the checkout, or say where that is in LOCI_HOME. Flags of sbatch win over the lines above;
# without GPUs: sbatch --gpus-per-node=0 --ntasks-per-node=4. The 300 s of --signal must be enough for a unit of work.
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
