#!/usr/bin/env bash
# Measures a machine with a GPU within eight minutes: engines, precision classes, extraction end to end, fine-tuning with and
# without cached layers, heads. Writes JSON and prints tables with the GPU's name.
#
#     benchmarks/gpu.sh [IMAGES.zip]      # photographs; without them, drawn pictures
#     benchmarks/gpu.sh --smoke           # every part on few samples, on any machine
#
# Installs mmfeat without its dependencies where it is not installed. The results go to the folder $OUT, if that is set.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
"$python" -c "import mmfeat" 2>/dev/null || "$python" -m pip install -q --no-deps --no-build-isolation -e .
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE
if [ -n "${OUT:-}" ]; then export BENCHMARK_RESULTS="$OUT"; fi
exec timeout 480 "$python" benchmarks/gpu.py "$@"
