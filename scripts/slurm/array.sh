#!/usr/bin/env bash
#SBATCH --job-name=loci
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=loci-%A_%a.log
# Tasks that do not know of each other, each with a slice of INPUT and a result of its own. {input} in the command stands for
# the slice, {task} for the number of the task:
#   mkdir traces; INPUT=FACTS.json sbatch scripts/slurm/array.sh trace MODEL --noise 0.1 --facts {input} --output traces/{task}.h5
# --noise s3 would measure each slice by itself. Without INPUT there are no slices: --noise-seed {task}, say. A task is done
# again with --array=3; for another number of slices change --array and SLICES, and write to another folder.
# Otherwise as one_node.sh.
set -euo pipefail
if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${SLURM_SUBMIT_DIR:-}" ]; then
  echo "error: this is a job script: submit it with sbatch $0 COMMAND ...; without Slurm, run loci COMMAND ... --ranks N" >&2
  exit 2
fi
if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
  echo "error: this job is not an array; submit it with sbatch --array=0-7, or without --array, which the script has itself" >&2
  exit 2
fi
LOCI_HOME=${LOCI_HOME:-$SLURM_SUBMIT_DIR}
LOCI=${LOCI:-$("$LOCI_HOME/scripts/built_loci.sh")}
INPUT=${INPUT:-}
SLICES=${SLICES:-8}
SLICE_FOLDER=${SLICE_FOLDER:-$SLURM_SUBMIT_DIR/slices}
# shellcheck source=scripts/slurm/run_step.sh
source "$LOCI_HOME/scripts/slurm/run_step.sh"

task=$SLURM_ARRAY_TASK_ID
slice=
if [ -n "$INPUT" ]; then slice=$(python3 "$LOCI_HOME/scripts/slurm/slice.py" "$INPUT" "$task" "$SLICES" "$SLICE_FOLDER"); fi
command=("${@//\{task\}/$task}")
run_step "$LOCI" "${command[@]//\{input\}/$slice}"
