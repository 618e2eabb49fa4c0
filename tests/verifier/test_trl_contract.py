"""What GCPO relies on of trl's private methods: a version that changed one fails here, with its name."""

from __future__ import annotations

import inspect

import pytest
from trl import GRPOTrainer

from rrm.verifier.gcpo.fast import FastGCPOTrainer
from rrm.verifier.gcpo.trainer import GCPOTrainer

RELIED_ON = {
    "_get_train_sampler": ["self", "dataset"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ],
}


@pytest.mark.parametrize(("name", "parameters"), RELIED_ON.items())
def test_trls_method_takes_what_ours_passes_on(name, parameters):
    theirs = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert theirs[: len(parameters)] == parameters


def test_every_private_method_that_is_overridden_is_checked():
    private = {
        name
        for kind in (GCPOTrainer, FastGCPOTrainer)
        for name in vars(kind)
        if name.startswith("_") and not name.startswith("__") and hasattr(GRPOTrainer, name)
    }
    assert private == set(RELIED_ON)
