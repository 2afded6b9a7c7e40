# Sourced by tpu_pod.sh, slurm.sh and multi_gpu.sh: parsing of their command lines. Compatible with
# bash 3.2, the version on macOS.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
training=() # the words after `--`: arguments of launch/train.py

# Prints an error and exits with status 2.
refuse() {
  echo "$*" >&2
  exit 2
}

# parse "OPTION ..." "FLAG ..." ARGUMENT...: sets option_NAME for each option; dashes become `_`.
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
      refuse "$1 is not an option of this script; put arguments of launch/train.py after --."
    fi
    printf -v "option_${name//-/_}" %s "$value"
    shift
  done
}

# Exits with an error if one of the options NAME... is missing.
need() {
  local name variable
  for name in "$@"; do
    variable=option_${name//-/_}
    [ -n "${!variable:-}" ] || refuse "--$name is missing; see the header of $0."
  done
}

# Exits with an error if a required argument of launch/train.py is missing.
need_training() {
  local name
  for name in --config --workdir; do
    case " ${training[*]:-}" in
      *" $name="* | *" $name "*) ;;
      *) refuse "The argument $name of launch/train.py is missing; give it after --, as in -- --config configs/oclr_flow.py --workdir DIR." ;;
    esac
  done
}

# Quotes the words as one line of shell code.
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

# Runs a command, or prints it with --dry-run.
run() {
  if [ -n "${option_dry_run:-}" ]; then
    quote "$@"
  else
    "$@"
  fi
}

# Sets `python` to the value of --python, or to the interpreter in .venv.
find_python() {
  python=${option_python:-$checkout/.venv/bin/python}
  if [ -z "${option_dry_run:-}" ] && ! command -v "$python" >/dev/null; then
    refuse "There is no $python; create it with python3 -m venv .venv && .venv/bin/pip install -e '.[data]' 'jax[cuda12]', or give another with --python."
  fi
}
