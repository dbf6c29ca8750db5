#!/bin/bash
# Times an optimiser step of ML-Mamba 2.7B and of mamba-ssm's own model, in turns.
#
# With a registry in reach: pip install -e '.[cuda]', then this script. On a machine without one,
# put wheels of what it lacks into .whl/ in the project's root first, see run.sh.
# Arguments: the models and in how many parts each does its step, and options of bench_training.py:
# tests/gpu/bench_training.sh ml-mamba:8 ours:8 theirs:16 --profile
# The first step of mamba-ssm's model chooses its kernels' sizes, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
python3 tests/gpu/bench_training.py "$@"
