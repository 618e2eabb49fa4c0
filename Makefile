# Every target sets up its own environment (.venv) first. Each stage takes CONFIG=configs/….yaml and carries on where it was stopped.
ROOT := $(shell dirname "$(strip $(MAKEFILE_LIST))")
IN := cd "$(ROOT)" &&
PY := $(IN) PYTHONPATH= TQDM_MININTERVAL=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check clean world data plan bench-data bench-verifier bench-serving serve doctor bench-gpu sft gcpo eval eval-served edit-nft edit-grpo edit-eval report ablation sandbox-base

help: ## list the targets
	@$(IN) awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: ## install everything into .venv (seconds when that is done)
	@$(IN) sh launch/setup.sh

demo: setup ## the whole job in the sandbox, offline; ends with the report's path
	@$(PY) -m rrm demo --configs configs/sandbox

test: setup ## run the tests but those of test-slow, on two processes
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup ## run the tests that are slow by nature: the whole job in miniature, vLLM, Ray, measured memory
	@$(PY) -m pytest -n 2 --dist loadfile -m slow

check: setup ## ruff, mypy and import contracts; whether every extra can be installed on Linux with CUDA
	@$(PY) -m ruff check . && .venv/bin/python -m ruff format --check . && .venv/bin/python -m mypy && .venv/bin/lint-imports && .venv/bin/python launch/resolve.py

clean: ## delete what the stages made (runs/); the environment stays
	@$(IN) rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

world: CONFIG ?= configs/sandbox/world.yaml
world: setup ## draw the sandbox: tasks, candidate edits, human pairs, held-out benchmark
	@$(PY) -m rrm world --config "$(CONFIG)"

data: CONFIG ?= configs/sandbox/data.yaml
data: setup ## tasks → principles → candidates → traces → verification → selection → SFT rows; human pairs → preferences
	@$(PY) -m rrm data --config "$(CONFIG)"

plan: CONFIG ?= configs/sandbox/data.yaml
plan: setup ## what `make data` will call and cost, measured on a sample of its tasks
	@$(PY) -m rrm plan --config "$(CONFIG)"

bench-data: setup ## measure the data pipeline: rates, memory, kills, hostile answers, photographs → runs/bench/data.json
	@$(PY) -m rrm perf data

bench-verifier: setup ## measure GCPO's step, forwards and rollouts beside trl and transformers → runs/bench/verifier.json
	@$(PY) -m rrm perf verifier

bench-serving: MODEL ?= runs/demo/gcpo/model
bench-serving: setup ## measure serving: rates, client overhead, Avg@4, agreement of vLLM and transformers → runs/bench/serving.json
	@$(PY) -m rrm perf serving --model "$(MODEL)"

serve: MODEL ?= runs/demo/gcpo/model
serve: setup ## serve an RRM over OpenAI's protocol with vLLM, on the CPU or on GPUs
	@$(PY) -m rrm serve --model "$(MODEL)"

doctor: CONFIG ?= configs/qwen2_5_vl_7b/sft.yaml
doctor: setup ## look at a training's config, data and machine before it is paid for (GPUS=8 GPU_MEMORY=80 to plan for another)
	@$(PY) -m rrm doctor --config "$(CONFIG)" $(if $(GPUS),--gpus $(GPUS)) $(if $(GPU_MEMORY),--gpu-memory $(GPU_MEMORY))

bench-gpu: setup ## measure SFT, GCPO and scoring at 3B and 7B on this GPU, random weights → runs/bench/gpu.json
	@$(PY) -m rrm perf gpu

sft: CONFIG ?= configs/sandbox/sft.yaml
sft: setup ## cold start of the RRM on the selected traces (trl SFTTrainer)
	@$(PY) -m rrm sft --config "$(CONFIG)"

gcpo: CONFIG ?= configs/sandbox/gcpo.yaml
gcpo: setup ## GCPO of the RRM on human preference pairs (trl GRPOTrainer)
	@$(PY) -m rrm gcpo --config "$(CONFIG)"

eval: CONFIG ?= configs/sandbox/eval.yaml
eval: setup ## pairwise accuracy on a benchmark in EditReward-Bench's format
	@$(PY) -m rrm eval --config "$(CONFIG)"

eval-served: setup ## the sandbox benchmark scored by the RRM through vLLM, and by trivial baselines (makes world, data and RRM first)
	@$(PY) -m rrm world --config configs/sandbox/world.yaml
	@$(PY) -m rrm data --config configs/sandbox/data.yaml
	@$(PY) -m rrm sft --config configs/sandbox/sft.yaml
	@$(PY) -m rrm gcpo --config configs/sandbox/gcpo.yaml
	@$(PY) -m eval.editrewardbench run --bench editscore --data runs/demo/world/benchmark --reward baseline:more-change --out runs/eval-served/more-change
	@$(PY) -m eval.editrewardbench run --bench editscore --data runs/demo/world/benchmark --reward serve:runs/demo/gcpo/model --out runs/eval-served/rrm
	@$(PY) -m eval.editrewardbench compare runs/eval-served/rrm runs/eval-served/more-change
	@$(PY) -m eval.editrewardbench report runs/eval-served/rrm

edit-nft: CONFIG ?= configs/sandbox/edit_nft.yaml
edit-nft: setup ## improve an editor with DiffusionNFT, the RRM as reward
	@$(PY) -m rrm edit --config "$(CONFIG)"

edit-grpo: CONFIG ?= configs/sandbox/edit_grpo.yaml
edit-grpo: setup ## improve an editor with Flow-GRPO, the RRM as reward
	@$(PY) -m rrm edit --config "$(CONFIG)"

edit-eval: CONFIG ?= configs/sandbox/edit_eval.yaml
edit-eval: setup ## compare the editors before and after on held-out tasks
	@$(PY) -m rrm edit-eval --config "$(CONFIG)"

report: CONFIG ?= configs/sandbox/report.yaml
report: setup ## one HTML page and summary.json of everything that was run
	@$(PY) -m rrm report --config "$(CONFIG)"

ablation: CONFIG ?= configs/sandbox/ablation.yaml
ablation: setup ## what each part of the verifier is worth, over seeds (up to 3 hours) → docs/evidence/verifier.md
	@$(PY) -m rrm ablation --config "$(CONFIG)"

sandbox-base: setup ## pre-train the shipped sandbox checkpoints again (about an hour)
	@$(PY) -m rrm base editor --out rrm/sandbox/checkpoints/editor-base
	@$(PY) -m rrm base verifier --out rrm/sandbox/checkpoints/rrm-base
	@$(PY) -m rrm base verifier --hidden 64 --layers 3 --out rrm/sandbox/checkpoints/rrm-base-mini
