#!/bin/bash
# Times the models of the paper's Table 3 on a CUDA device, each peer in turns with ours.
#
# With a registry in reach: pip install -e '.[cuda]', then this script. On a machine without one,
# put wheels of what it lacks into .whl/ in the project's root first, see run.sh.
# Arguments go to ablate bench: tests/gpu/bench.sh 'models=[ml-mamba]' repeats=5
# BENCH=sweeps/bench_cpu.yaml times another bench file.
# The JSON document and the plot are left in $OUT, or in the working folder without it.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
python3 -m ablate bench "${BENCH:-sweeps/ml_mamba/table3.yaml}" \
  --json "${OUT:-.}/bench.json" "$@"
