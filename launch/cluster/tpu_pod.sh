#!/usr/bin/env bash
# Trains on a Cloud TPU slice of one or more hosts. Each step is one gcloud command:
#
#   bash launch/cluster/tpu_pod.sh create  --name NAME --zone ZONE --type v4-32 [--image IMAGE] [--spot]
#   bash launch/cluster/tpu_pod.sh install --name NAME --zone ZONE [--repository URL]
#   bash launch/cluster/tpu_pod.sh start   --name NAME --zone ZONE -- --config configs/oclr_flow.py \
#       --workdir gs://BUCKET/full --config.data.dir=gs://BUCKET/data --config.batch_size=16
#   bash launch/cluster/tpu_pod.sh log     --name NAME --zone ZONE
#   bash launch/cluster/tpu_pod.sh resume  --name NAME --zone ZONE -- the arguments of start
#   bash launch/cluster/tpu_pod.sh delete  --name NAME --zone ZONE
#
# `install`, `start`, `log` and `resume` run on all hosts. `resume` saves and stops a running
# training, then resumes from the newest checkpoint; after a preemption, run `delete`, `create` and
# `install` first. All steps accept `--project PROJECT` and `--dry-run`, which prints the command.
# Data and workdir must be accessible from all hosts. IMAGE is the runtime version that Google lists
# for the type.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

step=${1:-}
case $step in
  create | install | start | log | resume | delete) shift ;;
  *) refuse "The first argument must be create, install, start, log, resume or delete." ;;
esac
option_name='' option_zone='' option_type='' option_image='' option_repository=''
option_project='' option_spot=''
parse "name zone type image repository project" "spot" "$@"
need name zone

tpu_vm() {
  run gcloud compute tpus tpu-vm "$@" "--zone=$option_zone" \
    ${option_project:+"--project=$option_project"}
}

on_all_hosts() {
  tpu_vm ssh "$option_name" --worker=all "--command=$1"
}

case $step in
  create)
    need type
    tpu_vm create "$option_name" "--accelerator-type=$option_type" \
      "--version=${option_image:-tpu-ubuntu2204-base}" ${option_spot:+--spot}
    ;;
  install)
    url=$(quote "${option_repository:-https://github.com/oclr-jax/oclr_jax}")
    on_all_hosts "{ test -d oclr_jax || git clone $url oclr_jax; } && bash oclr_jax/launch/cluster/tpu_host.sh install"
    ;;
  start | resume)
    need_training
    on_all_hosts "bash oclr_jax/launch/cluster/tpu_host.sh $step $(quote "${training[@]}")"
    ;;
  log) on_all_hosts "bash oclr_jax/launch/cluster/tpu_host.sh log" ;;
  delete) tpu_vm delete "$option_name" --quiet ;;
esac
