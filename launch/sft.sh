#!/bin/sh
# SFT on all GPUs of this node:  launch/sft.sh configs/qwen2_5_vl_7b/sft.yaml
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/deepspeed --module rrm.verifier.sft --config "${1:-configs/qwen2_5_vl_7b/sft.yaml}"
