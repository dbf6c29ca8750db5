#!/bin/bash
# Trains on one and on two GPUs of a machine with two: speed of ML-Mamba 2.7B and of LLaVA-1.5 7B,
# losses of a small model, and trainings that go on on another number of GPUs.
#
# With a registry in reach: pip install -e '.[cuda]', then this script. On a machine without one,
# put wheels of what it lacks into .whl/ in the project's root first, see run.sh.
# Arguments: parts of strategies.py; without any, all, of which each has its own time, in 8 minutes.
# What is found is in $OUT/strategies.jsonl (by default in the working folder).
set -uo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
# NVLink multicast can harm a host's GPUs that others share.
export NCCL_NVLS_ENABLE="${NCCL_NVLS_ENABLE:-0}"
export MAMBA_DETERMINISTIC="${MAMBA_DETERMINISTIC:-1}"
declare -A seconds=(
  [ml-mamba-one]=130 [ml-mamba-ddp]=110 [llava-7b-fsdp]=120 [curves-32]=80 [killed-32]=100
  [curves-bf16]=80 [ml-mamba-fsdp]=90
)
parts=("$@")
if [ $# = 0 ]; then
  parts=(ml-mamba-one ml-mamba-ddp llava-7b-fsdp curves-32 killed-32 curves-bf16 ml-mamba-fsdp)
fi
end=$((SECONDS + ${ALL_SECONDS:-465}))
for part in "${parts[@]}"; do
  left=$((end - SECONDS)) most=${seconds[$part]}
  [ "$left" -gt 20 ] || break
  echo "== $part, at most $((most < left ? most : left)) s, $SECONDS s so far"
  sleep 2 # what the part before has left on the GPUs is freed
  timeout -k 5 "$((most < left ? most : left))" python3 tests/gpu/strategies.py "$part"
done
python3 tests/gpu/strategies.py ratio
