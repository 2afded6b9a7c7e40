#!/usr/bin/env bash
# Trains on several GPUs of one machine, in one process:
#
#   bash launch/cluster/multi_gpu.sh [--gpus 0,1,2,3] [--python FILE] [--dry-run] -- \
#       --config configs/oclr_flow.py --workdir workdirs/full --config.batch_size=8
#
# Without --gpus it uses all GPUs. Add `--config.parallel=pmap` after `--` to run the step under
# pmap. To resume, repeat the command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

option_gpus=''
parse "gpus python" "" "$@"
need_training
find_python
if [[ ! ${option_gpus:-0} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
  refuse "--gpus takes a list of numbers such as 0,1,2,3, not $option_gpus."
fi

cd "$checkout"
run env ${option_gpus:+"CUDA_VISIBLE_DEVICES=$option_gpus"} "$python" launch/train.py "${training[@]}"
