# Sourced by the other scripts: makes the clone's own environment in .venv, once, and puts it first on PATH.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
gpu_visible() { # NVIDIA's or AMD's
  nvidia-smi -L 2>/dev/null | grep -q GPU || compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/kfd ]
}
CPU_BUILD=https://download.pytorch.org/whl/cpu
# On Linux the ordinary build brings gigabytes of CUDA. The same pinned version without it is tried first where no GPU is
# visible; a network that does not reach it gets the ordinary build. TORCH=cpu or TORCH=ordinary decides by hand.
install() {
  local pip=(.venv/bin/python -m pip install)
  "${pip[@]}" -q -U pip || return 1
  if [ "${TORCH:-}" = cpu ] || { [ "${TORCH:-}" != ordinary ] && [ "$(uname -s)" = Linux ] && ! gpu_visible; }; then
    "${pip[@]}" --retries 1 --timeout 10 -c scripts/constraints.txt --index-url "$CPU_BUILD" torch torchvision ||
      echo "torch's CPU build could not be had from $CPU_BUILD; the ordinary build follows"
  fi
  "${pip[@]}" -c scripts/constraints.txt -e '.[dev]'
}

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
  if ! install >.venv/install.log 2>&1; then
    tail -n 20 .venv/install.log >&2; say "The installation failed; the whole log is in .venv/install.log"; exit 1
  fi
  touch "$stamp"
fi
export PATH="$ROOT/.venv/bin:$PATH" PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" VIRTUAL_ENV="$ROOT/.venv"
