#!/bin/sh
# SFT on all GPUs of this node, or of the hostfile's nodes (a line "name slots=8" each; the same folder and .venv on every node; ssh without a password):
#   launch/sft.sh configs/qwen2_5_vl_7b/sft.yaml [--gpus N] [--hostfile FILE] [--dry-run]
# Before money is spent: rrm doctor --config configs/qwen2_5_vl_7b/sft.yaml
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh
read_arguments "$@"
own_server=
if [ -n "$hostfile" ]; then
    train "$BIN/deepspeed" --hostfile "$hostfile" --master_port "$PORT" --module rrm.verifier.sft --config "$config"
else
    count_gpus
    train "$BIN/deepspeed" --num_gpus "$gpus" --master_port "$PORT" --module rrm.verifier.sft --config "$config"
fi
