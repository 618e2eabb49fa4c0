#!/bin/sh
# The data pipeline on a Ray cluster. Start the cluster first, on every node with the same environment and the same shared folder:
#   head:    ray start --head --port 6379          others: ray start --address <head>:6379
# then, on the head: launch/data_ray.sh configs/qwen2_5_vl_7b/data.yaml [--limit N] [--max-cost M]
# Without a cluster Ray starts on this machine alone. The output is the local engine's, row for row.
set -eu
config=$1
shift
cd "$(dirname "$0")/.."
RAY_ADDRESS=${RAY_ADDRESS-auto}
if ! .venv/bin/ray status --address "$RAY_ADDRESS" >/dev/null 2>&1; then
    echo "no Ray cluster at '$RAY_ADDRESS': using this machine alone" >&2
    unset RAY_ADDRESS
else
    export RAY_ADDRESS
fi
exec .venv/bin/python -m data_pipeline --config "$config" --engine ray "$@"
