# Sourced by the scripts beside it: makes `.venv` in the checkout, or brings it up to date, and sets
# `checkout` and `venv_python`. The environment is made anew when setup.py, the Python version or
# the place of the checkout changed; one whose making was interrupted is not taken for finished.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv_python=$checkout/.venv/bin/python
base_python=${PYTHON:-python3}
if ! "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Python 3.11 or newer is needed, '$base_python' is not: set PYTHON to one that is." >&2
  exit 2
fi
stamp=$("$base_python" -c '
import hashlib, pathlib, sys
facts = pathlib.Path(sys.argv[1], "setup.py").read_text() + sys.version + sys.argv[1]
print(hashlib.sha256(facts.encode()).hexdigest())' "$checkout")

if [ "$(cat "$checkout/.venv/installed" 2>/dev/null)" != "$stamp" ]; then
  echo "Installing into .venv (once; 1.5 GB of packages) ..." >&2
  "$base_python" -m venv --clear "$checkout/.venv" || exit 1
  "$venv_python" -m pip install --quiet --use-pep517 -e "${checkout}[data,test]" || exit 1
  echo "$stamp" >"$checkout/.venv/installed"
fi
