#!/bin/sh
# GCPO on all GPUs of this node:  launch/gcpo.sh configs/qwen2_5_vl_7b/gcpo.yaml
# For rollouts by vLLM start `trl vllm-serve --model <the SFT checkpoint>` on GPUs of its own and set vllm_server in the config.
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/deepspeed --module rrm.verifier.gcpo --config "${1:-configs/qwen2_5_vl_7b/gcpo.yaml}"
