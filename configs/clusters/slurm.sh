#!/usr/bin/env bash
# One search on whole nodes of a SLURM cluster. From the project's folder, on a file system that all nodes see:
#
#   sbatch configs/clusters/slurm.sh
#
# Near its time limit, when preempted, or when a node is lost, the job is queued again and goes on where it was.
#
#SBATCH --job-name=tuner
#SBATCH --partition=<partition with GPUs>
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=tuner-%j.log
#
# One Ray process tree per node, and no other Ray there: symmetric-run refuses to start beside one.
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#
# Five minutes before the time limit this script, and nothing else, gets USR1.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# What to search. --resume, below, takes all of this from the run directory.
SEARCH=(--task resnet18 --optimizers diag_hessian adam --gpus-per-trial 0.25)

PROJECT=${PROJECT:-$SLURM_SUBMIT_DIR}
VENV=${VENV:-$PROJECT/.venv}    # made by `make demo`, or python -m venv and requirements.txt
DATA=${DATA:-}                  # what --data-dir names, the same path on all nodes; empty: the task needs no file
OUT=${OUT:-$PROJECT/runs}       # where a job that is queued again finds its run, on whatever node
PORT=${PORT:-6379}
NAME=slurm-$SLURM_JOB_ID
RUN=$OUT/$NAME

cd "$PROJECT"
export PATH=$VENV/bin:$PATH
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

if [[ -f $RUN/config.yaml ]]; then
    work=(--resume "$RUN")
else
    rmdir "$RUN/logs" "$RUN" 2>/dev/null || true    # killed before anything was written
    work=("${SEARCH[@]}" --out "$OUT" --name "$NAME")
    [[ -z $DATA ]] || work+=(--data-dir "$DATA")
fi

# Only this job's processes may speak to its Ray: on a shared network anyone else could run code in your name. srun
# hands the token on to all nodes.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# The batch script runs on the first node: this one is the head, and the driver can be signalled from here. An address
# rather than a name, which a node may know as loopback; of several networks, name the one in HEAD.
HEAD=${HEAD:-$(hostname -I | cut -d ' ' -f 1)}
driver_pid=$(mktemp)
step=

stop_driver() {
    if [[ -s $driver_pid ]]; then
        kill -TERM "$(<"$driver_pid")" 2>/dev/null || true
    else
        kill -TERM "$step" 2>/dev/null || true      # Ray is still starting
    fi
}
near_limit=
trap 'near_limit=yes; stop_driver' USR1
trap ':' TERM                                       # cancelled or preempted: SLURM tells the driver itself
trap 'rm -f "$driver_pid"' EXIT

# A lost node ends neither the others (--kill-on-bad-exit=0) nor, after a while, the step (--wait=0).
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --kill-on-bad-exit=0 --wait=0 \
    ray symmetric-run --address "$HEAD:$PORT" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
    bash -c 'echo $$ >"$0"; exec "$@"' "$driver_pid" \
    python -m tuner.search "${work[@]}" --address auto &
step=$!

code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do               # a signal ended the wait, not the step
    code=0
    wait "$step" || code=$?
done

# 0 to 3 are the search's own: over, one way or another. From 128 on it was stopped.
if [[ $near_limit && $code -ge 128 ]]; then
    echo "near the time limit: queued again, to go on with $RUN"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
