# Sourced by the scripts that are Python: bash reads their first lines, sets up .venv, and hands the file on to Python.
set -euo pipefail
export IUTOK_HERE=${IUTOK_HERE:-$PWD} # paths are meant from where you stand
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python "scripts/$(basename "$0")" "$@"
