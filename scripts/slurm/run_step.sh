# shellcheck shell=bash
# Sourced by the job scripts of this folder: run_step COMMAND... runs COMMAND as the ranks of the job. Shortly before the
# time limit (--signal=B:USR1@SECONDS of the job script) the ranks are told to finish their units; then the job is queued
# again, and its next start continues where this one stopped. After `scancel` it is not.

run_step() {
  # The number alone would mean all tasks of an array.
  local job=$SLURM_JOB_ID code=0
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  # srun does not take this one from the job.
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
  # All ranks leave together: once one is gone for this many seconds, the others wait for it in vain and are ended.
  # (--kill-on-bad-exit would end them while they leave with code 75.)
  export SLURM_WAIT=${SLURM_WAIT:-60}

  local asked=no
  trap 'asked=yes; scancel --signal=USR1 "$job.0"' USR1
  srun --mpi=pmix "$@" &
  wait $! || code=$?
  # The signal ends the wait, not the step.
  if [ "$asked" = yes ] && [ "$code" -eq $((128 + $(kill -l USR1))) ]; then code=0; wait $! || code=$?; fi

  if [ "$asked" = yes ] && [ "$code" -eq 75 ]; then scontrol requeue "$job"; fi
  return "$code"
}
