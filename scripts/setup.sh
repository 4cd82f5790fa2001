# Sourced by the other scripts: makes the clone's own environment in .venv, once, and puts it first on PATH.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

stamp=.venv/.installed-$(cat settings.ini setup.py scripts/constraints.txt | sha256sum | cut -c1-12)
if [ ! -e "$stamp" ]; then
  py=""
  for p in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$p" ] && command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && py=$p && break
  done
  [ -n "$py" ] || { say "iutok needs Python 3.11 or newer; none was found. Install one, or name it: PYTHON=/path/to/python $0"; exit 1; }
  say "Setting up .venv with $("$py" --version) (a few minutes, once; log in .venv/install.log)"
  [ -x .venv/bin/python ] || "$py" -m venv .venv || { say "Could not make .venv. On Debian: apt-get install python3-venv"; exit 1; }
  rm -f .venv/.installed-*
  if ! { .venv/bin/python -m pip install -q -U pip && .venv/bin/python -m pip install -c scripts/constraints.txt -e '.[dev]'; } >.venv/install.log 2>&1; then
    tail -n 20 .venv/install.log >&2; say "The installation failed; the whole log is in .venv/install.log"; exit 1
  fi
  touch "$stamp"
fi
export PATH="$ROOT/.venv/bin:$PATH" PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" VIRTUAL_ENV="$ROOT/.venv"
