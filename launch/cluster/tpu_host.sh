#!/usr/bin/env bash
# Run by tpu_pod.sh on every host of a slice: `install`, `start ARGUMENTS`, `resume ARGUMENTS` or
# `log`. Training continues when the connection ends, and logs to `workdirs/host.log`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
log=workdirs/host.log pid_file=workdirs/host.pid

# After a reboot of the host, the process id may belong to another program.
is_running() {
  [ -f $pid_file ] && grep -q launch/train.py "/proc/$(cat $pid_file)/cmdline" 2>/dev/null
}

start() {
  mkdir -p workdirs
  nohup .venv/bin/python launch/train.py "$@" >>$log 2>&1 </dev/null &
  echo $! >$pid_file
  echo "$(hostname): training as process $(cat $pid_file), log in $log"
}

step=$1
shift
case $step in
  install)
    git pull --quiet --ff-only
    # The images have an older Python; uv installs a newer one.
    python3 -m pip install --quiet --user uv
    [ -x .venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 .venv
    python3 -m uv pip install --quiet --python .venv/bin/python \
      -e '.[data,gcs]' 'jax[tpu]'
    ;;
  start)
    if is_running; then
      echo "$(hostname): training is already running; use resume to restart it or log to see it." >&2
      exit 2
    fi
    start "$@"
    ;;
  resume)
    if is_running; then
      kill -TERM "$(cat $pid_file)"
      while is_running; do sleep 1; done
    fi
    start "$@"
    ;;
  log) tail -n 20 $log ;;
esac
