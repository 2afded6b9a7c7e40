# Sourced by the scripts in this folder: creates or updates `.venv` in the checkout and sets
# `checkout` and `venv_python`. The environment is created again when setup.py, the Python version
# or the location of the checkout has changed, or when its creation was interrupted.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv_python=$checkout/.venv/bin/python
base_python=${PYTHON:-python3}
if ! "$base_python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
then
  echo "Python 3.11 to 3.13 is needed and '$base_python' is not; set PYTHON to one that is." >&2
  exit 2
fi
stamp=$("$base_python" -c '
import hashlib, pathlib, sys
inputs = pathlib.Path(sys.argv[1], "setup.py").read_text() + sys.version + sys.argv[1]
print(hashlib.sha256(inputs.encode()).hexdigest())' "$checkout")

if [ "$(cat "$checkout/.venv/installed" 2>/dev/null)" != "$stamp" ]; then
  echo "Installing into .venv (once; downloads 1.5 GB) ..." >&2
  "$base_python" -m venv --clear "$checkout/.venv" || exit 1
  "$venv_python" -m pip install --quiet --use-pep517 -e "${checkout}[data,test,web]" || exit 1
  echo "$stamp" >"$checkout/.venv/installed"
fi
