#!/bin/bash
# Tests the decoding steps on a CUDA device, and times Table 3's transformers: the fused step against
# the library's modules, in turns, its kernels, the reading of a prompt (by its Mambas, too), and
# ablate bench.
#
# With a registry in reach: pip install -e '.[cuda,dev]', then this script. On a machine without
# one, put wheels of what it lacks into .whl/ in the project's root first, see run.sh.
# Each part's output is left in $OUT, or in the working folder without it, as it comes. Arguments:
# the parts, in this order without any: times profile tests reads bench (7 minutes in all); and tiles,
# which times other tile sizes.
set -uo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/paths.sh
out="${OUT:-.}"
failed=0

part() { # seconds, name, command
  local start=$SECONDS
  timeout -s INT -k 10 "$1" "${@:3}" > "$out/$2.log" 2>&1 || { failed=1; echo "$2 failed"; }
  tail -n 80 "$out/$2.log"
  echo "== $2: $((SECONDS - start)) s"
}

for name in "${@:-}"; do
  case "${name:-all}" in
    times | all) part 70 times python3 tests/gpu/bench_transformers.py ;;&
    profile | all) part 45 profile python3 tests/gpu/bench_transformers.py --profile ;;&
    tests | all)
      part 100 tests python3 -m pytest -m gpu -q --maxfail=5 -p no:cacheprovider \
        tests/gpu/test_decoders.py -k 'not mamba'
      ;;&
    reads | all)
      part 130 reads python3 tests/gpu/bench_transformers.py --reads \
        --models phi-2 mobilellama-1.4b vicuna-7b mamba2-2.7b mamba-2.8b
      ;;&
    tiles) part 200 tiles python3 tests/gpu/bench_transformers.py --tiles ;;&
    bench | all)
      part 85 bench python3 -m ablate bench sweeps/ml_mamba/table3.yaml \
        --json "$out/transformers.json" 'models=[tinyllava,mobilevlm-v2,llava-1.5-7b]' \
        'batch_sizes=[1]' 'prompt_tokens=[30]' repeats=2 'peers=[]' 'faster={}'
      ;;
  esac
done
exit $failed
