#!/usr/bin/env bash
# Trains on one or more GPU nodes of a SLURM cluster:
#
#   bash launch/cluster/slurm.sh --nodes 2 --gpus 4 [--cpus 8] [--time 24:00:00] [--partition P] \
#       [--account A] [--python FILE] [--dry-run] -- --config configs/oclr_flow.py \
#       --workdir /shared/full --config.batch_size=16
#
# --gpus is the number of GPUs per node, --cpus the number of cores per GPU. Checkout, data and
# workdir must be on a file system that all nodes share. Two minutes before the time limit the job
# receives SIGTERM and saves a checkpoint; repeat the command to resume. A preempted job is requeued.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

option_nodes='' option_gpus='' option_cpus='' option_time='' option_partition='' option_account=''
parse "nodes gpus cpus time partition account python" "" "$@"
need nodes gpus
need_training
find_python

# One task per GPU, with all GPUs of the node visible to each: jax assigns them.
run sbatch --job-name=oclr_jax "--nodes=$option_nodes" "--ntasks-per-node=$option_gpus" \
  "--gpus-per-node=$option_gpus" "--cpus-per-task=${option_cpus:-8}" \
  --signal=TERM@120 --requeue --open-mode=append "--chdir=$checkout" --output=slurm-%j.log \
  ${option_time:+"--time=$option_time"} \
  ${option_partition:+"--partition=$option_partition"} \
  ${option_account:+"--account=$option_account"} \
  "--wrap=srun $(quote "$python" launch/train.py "${training[@]}")"
