# Sourced by tpu_pod.sh, slurm.sh and multi_gpu.sh: what their command lines have in common. Kept to
# what bash 3.2 understands, which is the one of a Mac.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
training=() # what comes after `--`: the arguments of launch/train.py

# One sentence and status 2.
refuse() {
  echo "$*" >&2
  exit 2
}

# parse "OPTION ..." "FLAG ..." ARGUMENT...: sets option_NAME for each, a dash becoming `_`.
parse() {
  local options=" $1 " flags=" $2 dry-run " name value
  shift 2
  while [ $# -gt 0 ]; do
    if [ "$1" = -- ]; then
      shift
      training=("$@")
      return
    fi
    name=${1#--}
    name=${name%%=*}
    if [[ $1 == --* && $options == *" $name "* ]]; then
      if [[ $1 == *=* ]]; then
        value=${1#*=}
      else
        [ $# -gt 1 ] || refuse "--$name needs a value."
        value=$2
        shift
      fi
      [ -n "$value" ] || refuse "--$name needs a value."
    elif [[ $1 == --* && $1 != *=* && $flags == *" $name "* ]]; then
      value=yes
    else
      refuse "$1 is not an option here; arguments of the training follow after --."
    fi
    printf -v "option_${name//-/_}" %s "$value"
    shift
  done
}

# Refuses where one of the options NAME... was not given.
need() {
  local name variable
  for name in "$@"; do
    variable=option_${name//-/_}
    [ -n "${!variable:-}" ] || refuse "--$name is missing; the head of $0 shows what it takes."
  done
}

# Refuses where the training's own arguments are not there.
need_training() {
  local name
  for name in --config --workdir; do
    case " ${training[*]:-}" in
      *" $name="* | *" $name "*) ;;
      *) refuse "The training's $name is missing: give it after --, as in -- --config configs/oclr_flow.py --workdir DIR." ;;
    esac
  done
}

# The words as one line that a shell reads back as the same words.
quote() {
  local word line='' single="'" escaped="'\\''"
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//$single/$escaped}'"
    fi
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command, or with --dry-run prints it.
run() {
  if [ -n "${option_dry_run:-}" ]; then
    quote "$@"
  else
    "$@"
  fi
}

# Sets `python` to that of --python, or of the checkout's environment.
find_python() {
  python=${option_python:-$checkout/.venv/bin/python}
  if [ -z "${option_dry_run:-}" ] && ! command -v "$python" >/dev/null; then
    refuse "There is no $python; make it with python3 -m venv .venv && .venv/bin/pip install -e '.[data]' 'jax[cuda12]', or name another with --python."
  fi
}
