# Sourced by the other scripts: makes the clone's own environment in .venv, once, and puts it first on PATH.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
gpu_visible() { # NVIDIA's or AMD's
  nvidia-smi -L 2>/dev/null | grep -q GPU || compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/kfd ]
}
CPU_BUILD=https://download.pytorch.org/whl/cpu
# On Linux the ordinary build brings gigabytes of CUDA. The same pinned version without it is tried first where no GPU
# is visible; a network that does not reach it gets the ordinary build. TORCH=cpu or TORCH=ordinary decides by hand.
cpu_build_wanted() {
  [ "${TORCH:-}" != ordinary ] || return 1
  [ "${TORCH:-}" = cpu ] || { [ "$(uname -s)" = Linux ] && ! gpu_visible; }
}
install() {
  local pip=(.venv/bin/python -m pip install)
  "${pip[@]}" -q -U pip || return 1
  if cpu_build_wanted; then
    "${pip[@]}" --retries 1 --timeout 10 -c scripts/constraints.txt --index-url "$CPU_BUILD" torch torchvision ||
      echo "torch's CPU build could not be had from $CPU_BUILD; the ordinary build follows"
  fi
  "${pip[@]}" -c scripts/constraints.txt -e '.[dev]'
}

# Notebooks merge cell by cell, as .gitattributes asks. git starts the driver at the top of a checkout, so the clone may
# be moved; a worktree that has no .venv merges them as text. A driver that is there already is left alone.
MERGE='if [ -e .venv/bin/nbdev_merge ]; then .venv/bin/python .venv/bin/nbdev_merge %O %A %B %P;'
MERGE+=' else git merge-file -L HEAD -L BASE -L THEIRS %A %O %B; fi'
merge_notebooks() {
  [ -e .git ] && command -v git >/dev/null || return 0
  git config --get merge.nbdev-merge.driver >/dev/null && return 0
  git config --local merge.nbdev-merge.name "notebooks, cell by cell"
  git config --local merge.nbdev-merge.driver "$MERGE"
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
stop() { say "$@"; exit 1; }
stamp=.venv/.installed-$(cat settings.ini setup.py scripts/constraints.txt | sha256sum | cut -c1-12)
if [ ! -e "$stamp" ]; then
  py=""
  for p in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$p" ] && command -v "$p" >/dev/null && recent "$p"; then py=$p; break; fi
  done
  [ -n "$py" ] ||
    stop "iutok needs Python 3.11 or newer; none was found. Install one, or name it: PYTHON=/path/to/python $0"
  say "Setting up .venv with $("$py" --version) (a few minutes, once; log in .venv/install.log)"
  [ -x .venv/bin/python ] || "$py" -m venv .venv || stop "Could not make .venv. On Debian: apt-get install python3-venv"
  rm -f .venv/.installed-*
  if ! install >.venv/install.log 2>&1; then
    tail -n 20 .venv/install.log >&2
    stop "The installation failed; the whole log is in .venv/install.log"
  fi
  merge_notebooks || say "git keeps merging notebooks as text: its configuration could not be written"
  touch "$stamp"
fi
export PATH="$ROOT/.venv/bin:$PATH" PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" VIRTUAL_ENV="$ROOT/.venv"
