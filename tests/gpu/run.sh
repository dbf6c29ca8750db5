#!/bin/bash
# Runs the tests that need a CUDA device, with mamba-ssm's kernels beside the portable path.
#
# With a registry in reach: pip install -e '.[cuda,dev]', then this script. On a machine without
# one, put wheels of what it lacks (mamba_ssm, causal_conv1d, einops, built for its Python and
# torch) into .whl/ in the project's root first; they are installed for this run alone.
# Arguments go to pytest: tests/gpu/run.sh -k decoding
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
# One block size for each of mamba-ssm's Triton kernels: to compile all of them and choose takes
# minutes, and their results differ by rounding alone.
export MAMBA_DETERMINISTIC="${MAMBA_DETERMINISTIC:-1}"
python3 -m pytest -m gpu -rA -p no:cacheprovider tests/gpu tests/sweeping/test_sweep.py "$@"
