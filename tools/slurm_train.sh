#!/usr/bin/env bash
# Train on several machines under SLURM: one task a machine, which starts one process a GPU of its own.
#
#   sbatch --nodes 2 --gpus-per-node 8 --cpus-per-task 64 tools/slurm_train.sh --config-file configs/isic_mrcnn.yaml
#
# From the repository's root, with the environment activated. All words behind the script go to tools/train_net.py.
# A job that is requeued, or sent again, goes on from its last checkpoint.
#SBATCH --job-name=lesionseg
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Two jobs may share a machine: each meets at a port of its own.
export DIST_URL="tcp://$first:$((20000 + SLURM_JOB_ID % 10000))"
# srun does not take over sbatch's --cpus-per-task. One task that fails ends all, instead of leaving them to wait.
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=1 bash -c '
    exec python tools/train_net.py --num-machines "$SLURM_NNODES" --machine-rank "$SLURM_NODEID" \
        --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --dist-url "$DIST_URL" --resume "$@"' train_net "$@"
