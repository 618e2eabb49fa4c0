"""The formulas of editor RL, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rrm.editor.flow import (
    clipped_loss,
    euler_step,
    log_density,
    mean_kl,
    noised,
    sample_ode,
    sample_sde,
    sde_deviation,
    sde_mean,
    sde_step,
    time_schedule,
    velocity_target,
)
from rrm.editor.groups import group_advantages, group_id
from rrm.editor.nft import average_decay, blend, nft_loss, normalised_error, old_decay, optimality


def ones(value: float) -> torch.Tensor:
    """One sample of one token with one channel."""
    return torch.full((1, 1, 1), value)


def test_noise_and_velocity_lie_on_the_straight_line():
    x_t = noised(ones(2.0), ones(-1.0), torch.tensor([0.25]))
    assert x_t.item() == 0.75 * 2.0 - 0.25
    assert velocity_target(ones(2.0), ones(-1.0)).item() == -3.0
    assert (x_t - 0.25 * velocity_target(ones(2.0), ones(-1.0))).item() == 2.0


def test_schedule_runs_from_one_to_zero():
    assert time_schedule(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_euler_with_the_true_velocity_arrives_at_the_image():
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    arrived = sample_ode(lambda x, t: noise - x0, noise, time_schedule(5))
    torch.testing.assert_close(arrived, x0)
    assert euler_step(ones(1.0), ones(2.0), 0.5, 0.25).item() == 0.5


def test_sde_deviation_uses_the_next_time_at_one():
    assert sde_deviation(0.5, 0.75, 0.7) == pytest.approx(0.7)
    assert sde_deviation(0.8, 0.8, 0.7) == pytest.approx(0.7 * 2.0)
    assert sde_deviation(1.0, 0.8, 0.7) == pytest.approx(0.7 * math.sqrt(1 / 0.2))


def test_sde_mean_by_hand():
    # s = .5, dt = −.25, sd = 1: x(1 + 1·(−.25)/1) + v(1 + 1·.5/1)(−.25) = .75x − .375v
    assert sde_mean(ones(2.0), ones(4.0), 0.5, 0.25, 1.0).item() == pytest.approx(
        0.75 * 2 - 0.375 * 4
    )
    # at s = 1 the velocity's correction vanishes: x(1 + sd²·dt/2) + v·dt
    assert sde_mean(ones(2.0), ones(4.0), 1.0, 0.8, 1.0).item() == pytest.approx(0.9 * 2 - 0.2 * 4)


def test_log_density_by_hand_and_averaged_over_dimensions():
    # variance = 1²·.25; (.5)²/(2·.25) = .5
    expected = -0.5 - 0.5 * math.log(2 * math.pi * 0.25)
    assert log_density(ones(1.5), ones(1.0), 1.0, -0.25).item() == pytest.approx(expected, abs=1e-6)
    wide = log_density(torch.full((1, 5, 3), 1.5), torch.full((1, 5, 3), 1.0), 1.0, -0.25)
    assert wide.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ratio_is_exactly_one_on_the_first_pass_in_the_storage_dtype(dtype):
    torch.manual_seed(0)
    x, v, z = (torch.randn(4, 6, 5).to(dtype) for _ in range(3))
    step = sde_step(x, v, z, 0.8, 0.6, sde_deviation(0.8, 0.8, 0.7))
    assert step.x_next.dtype == dtype
    logp = log_density(
        step.x_next, sde_mean(x.float(), v.float(), 0.8, 0.6, step.sd), step.sd, -0.2
    )
    _, ratio = clipped_loss(logp, step.logp, torch.ones(4), 1e-4, 5.0)
    assert torch.equal(ratio, torch.ones(4))


def test_sde_keeps_only_the_stochastic_steps():
    x0, taken = sample_sde(
        lambda x, t: x,
        torch.randn(2, 3, 4),
        time_schedule(6),
        4,
        0.7,
        torch.Generator().manual_seed(0),
    )
    assert [round(step.s, 3) for step in taken] == [1.0, 0.833, 0.667, 0.5]
    assert x0.shape == (2, 3, 4)
    assert torch.equal(taken[1].x, taken[0].x_next)


def test_kl_by_hand_has_no_dt():
    assert mean_kl(ones(3.0), ones(1.0), 2.0).item() == pytest.approx(4 / 8)


def test_clipped_loss_takes_the_worse_of_both():
    logp = torch.log(torch.tensor([1.5, 0.5, 1.5, 0.5]))
    loss, ratio = clipped_loss(logp, torch.zeros(4), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2, 5.0)
    torch.testing.assert_close(ratio, torch.tensor([1.5, 0.5, 1.5, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([-1.2, -0.5, 1.5, 0.8]))
    capped, _ = clipped_loss(torch.zeros(1), torch.zeros(1), torch.tensor([9.0]), 0.2, 5.0)
    assert capped.item() == -5.0


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("advantage", [-9.0, -1.3, 0.0, 2.0, 7.0])
def test_nft_gradient_at_v_old_is_the_clipped_advantage_times_the_plain_gradient(beta, advantage):
    torch.manual_seed(1)
    x0, noise, v_old = (torch.randn(1, 4, 3, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0.7], dtype=torch.float64)
    x_t, a = noised(x0, noise, t), torch.tensor([advantage], dtype=torch.float64)
    v = v_old.clone().requires_grad_()
    loss = nft_loss(
        v, v_old, v_old, x_t, x0, t, optimality(a, 5.0), beta=beta, a_max=5.0, ref_weight=1e-4
    )
    (gradient,) = torch.autograd.grad(loss.total.sum(), v)
    (plain,) = torch.autograd.grad(normalised_error(x_t - 0.7 * v, x0).sum(), v)
    torch.testing.assert_close(gradient, max(-5.0, min(5.0, advantage)) * plain)


def test_nft_value_at_v_old_does_not_depend_on_the_reward():
    torch.manual_seed(2)
    x0, x_t, v = (torch.randn(3, 4, 3) for _ in range(3))
    values = [
        nft_loss(
            v,
            v,
            v,
            x_t,
            x0,
            torch.full((3,), 0.5),
            torch.full((3,), r),
            beta=1.0,
            a_max=5.0,
            ref_weight=0.0,
        ).total
        for r in (0.0, 0.5, 1.0)
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[1], values[2])


def test_nft_loss_by_hand():
    # x_t = 1, x0 = 0, t = ½, v_old = 0, v = 1, β = 1: x̂⁺ = ½, x̂⁻ = 3/2; L± = (x̂±)²/|x̂±|; r = .8
    loss = nft_loss(
        *(
            ones(1.0),
            ones(0.0),
            ones(-1.0),
            ones(1.0),
            ones(0.0),
            torch.tensor([0.5]),
            torch.tensor([0.8]),
        ),
        beta=1.0,
        a_max=5.0,
        ref_weight=0.1,
    )
    assert loss.total.item() == pytest.approx(5 * (0.8 * 0.5 + 0.2 * 1.5) + 0.1 * 4)
    assert loss.from_old.item() == 1.0
    assert loss.reference.item() == 4.0


def test_optimality_maps_the_clipped_advantage_to_a_probability():
    torch.testing.assert_close(
        optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 9.0]), 5.0),
        torch.tensor([0, 0, 0.5, 0.75, 1]),
    )


def test_old_decay_grows_to_its_limit_and_the_average_to_its_own():
    assert [old_decay(step) for step in (0, 100, 500, 9000)] == [0.0, 0.1, 0.5, 0.5]
    assert [average_decay(0), average_decay(8), average_decay(10_000)] == [0.1, 0.5, 0.9]


def test_blend_moves_the_target_and_leaves_the_newer_alone():
    target, newer = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        target.weight.fill_(2.0)
        newer.weight.fill_(6.0)
    blend(target, newer, 0.25)
    assert (target.weight.item(), newer.weight.item()) == (5.0, 6.0)


def test_a_group_is_image_and_instruction_and_requirement():
    names = {
        group_id("a", "x", None),
        group_id("b", "x", None),
        group_id("a", "y", None),
        group_id("a", "x", "r"),
    }
    assert len(names) == 4
    assert group_id("a", "x", None) == group_id("a", "x", None)


def test_advantages_by_group_mean_and_epoch_std():
    result = group_advantages([0.0, 1.0, 0.2, 0.4], ["p", "p", "q", "q"])
    std = np.std([0.0, 1.0, 0.2, 0.4]) + 1e-4
    np.testing.assert_allclose(result.values, np.array([-0.5, 0.5, -0.1, 0.1]) / std)
    own = group_advantages([0.0, 1.0, 0.2, 0.4], ["p", "p", "q", "q"], normalize_over="group")
    np.testing.assert_allclose(
        own.values, [-0.5 / 0.5001, 0.5 / 0.5001, -0.1 / 0.1001, 0.1 / 0.1001]
    )


def test_missing_rewards_are_left_out_and_counted_never_zero():
    result = group_advantages(
        [None, 0.4, 0.8, float("nan"), 0.5, None],
        ["p", "p", "p", "q", "q", "r"],
        normalize_over="group",
    )
    assert result.missing_rewards == 3
    assert result.lone_samples == 1
    assert result.kept.tolist() == [False, True, True, False, False, False]
    np.testing.assert_allclose(result.values[1:3], [-0.2 / 0.2001, 0.2 / 0.2001])


def test_no_rewards_at_all_keep_nothing():
    result = group_advantages([None, None], ["p", "p"])
    assert not result.kept.any()
    assert result.missing_rewards == 2


REWARDS = [0.95, 0.96, 0.3, 0.31, 0.85, 1.0, 0.2, 0.8]
GROUPS = ["high and flat"] * 2 + ["flat"] * 2 + ["high"] * 2 + ["good"] * 2


def test_the_papers_filter_drops_what_is_both_high_and_flat():
    result = group_advantages(REWARDS, GROUPS, rule="paper")
    assert result.kept.tolist() == [False, False, True, True, True, True, True, True]
    assert (
        result.dropped_high_and_flat,
        result.dropped_flat,
        result.dropped_high,
        result.groups,
    ) == (1, 0, 0, 4)


def test_the_codes_filter_keeps_only_what_is_neither():
    result = group_advantages(REWARDS, GROUPS, rule="code")
    assert result.kept.tolist() == [False] * 6 + [True, True]
    assert (result.dropped_high_and_flat, result.dropped_flat, result.dropped_high) == (0, 2, 1)


def test_the_filter_can_be_moved_or_switched_off():
    assert group_advantages(REWARDS, GROUPS, rule="none").kept.all()
    assert group_advantages(REWARDS, GROUPS, rule="paper", high=0.99).kept.all()
