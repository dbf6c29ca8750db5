#!/bin/bash
# Small cells on a CUDA device: captured steps against plain ones, where a cell's seconds go, and
# with PARTS=sweep, sweeps/connector.yaml with 20 seeds (80 cells), nothing prepared. Each of the two
# calls takes less than nine minutes on an H100.
#
# With a registry in reach: pip install -e '.[cuda,dev]', then this script. On a machine without
# one, put wheels of what it lacks into .whl/ in the project's root first, see run.sh.
# What it finds is left in $OUT as it comes, or in the working folder. PARTS chooses parts of it.
set -uo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
export MAMBA_DETERMINISTIC="${MAMBA_DETERMINISTIC:-1}"
out="${OUT:-.}" parts="${PARTS:-tests one phases}" jobs="${JOBS:-8}"
work=$(mktemp -d)
export ABLATE_CACHE="$work/cache" TRITON_CACHE_DIR="$work/triton"

# part NAME SECONDS COMMAND...: its output in $out/NAME.txt, and how long it took.
part() {
  local name=$1 limit=$2 begun=$SECONDS
  shift 2
  [[ " $parts " == *" $name "* ]] || return 0
  timeout -s INT -k 10 "$limit" "$@" > "$out/$name.txt" 2>&1
  echo "$name: rc $?, $((SECONDS - begun)) s" | tee -a "$out/small_cells.txt"
  tail -n 60 "$out/$name.txt"
}

part tests 240 python3 -m pytest -n "$jobs" -m gpu -rA -q -p no:cacheprovider tests/gpu/test_captured_steps.py
# Data, stage 0 and features, once for all; and four cells one after the other.
export MLFLOW_TRACKING_URI="sqlite:///$work/one.db"
part one 180 python3 -m ablate sweep sweeps/connector.yaml 'seeds=[0]' --jobs 1
python3 tests/gpu/small_cells_summary.py 2>&1 | tee -a "$out/small_cells.txt"
part phases 160 python3 tests/gpu/small_cells.py mlp msc-advanced-csm
export MLFLOW_TRACKING_URI="sqlite:///$work/sweep.db"
part sweep "${SWEEP_SECONDS:-520}" python3 -m ablate sweep sweeps/connector.yaml \
  "seeds=[$(seq -s, 0 19)]" --jobs "$jobs"
python3 tests/gpu/small_cells_summary.py 2>&1 | tee -a "$out/small_cells.txt"
rm -rf "$work"
