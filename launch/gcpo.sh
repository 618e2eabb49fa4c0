#!/bin/sh
# GCPO on this node's GPUs, or on those of the hostfile's nodes (as in sft.sh; start it on the first of them):
#   launch/gcpo.sh configs/qwen2_5_vl_7b/gcpo.yaml [--gpus N] [--server-gpus M] [--hostfile FILE] [--dry-run]
# Where the config's vllm_server is an address on this machine, the rollouts come from a vLLM server on the first M GPUs (2; the number must divide the
# model's attention heads), started here, waited for, and stopped at the end; the rest train. pairs × 2 × traces must divide by what trains.
# Before money is spent: rrm doctor --config configs/qwen2_5_vl_7b/gcpo.yaml
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh
read_arguments "$@"
count_gpus
read_server
start_server
wait_for_server
set -- --master_port "$PORT" --module rrm.verifier.gcpo --config "$config"
if [ -n "$hostfile" ]; then
    [ -z "$own_server" ] || set -- --exclude "$first_host:$(numbers 0 "$server_gpus")" "$@"
    train "$BIN/deepspeed" --hostfile "$hostfile" "$@"
elif [ -n "$own_server" ]; then
    train "$BIN/deepspeed" --include "localhost:$(numbers "$server_gpus" "$gpus")" "$@"
else
    train "$BIN/deepspeed" --num_gpus "$gpus" "$@"
fi
