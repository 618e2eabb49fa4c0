"""GCPO's pure functions against values worked out by hand."""

import math

import pytest
import torch

from rrm.verifier.gcpo.maths import (
    clipped_objective,
    clipped_tokens,
    group_advantages,
    kl_estimate,
    mean_over_traces,
    tie_rate,
    weighted_advantage,
    win_loss_ratios,
    zero_variance_groups,
)

NAN = float("nan")


def test_win_and_loss_ratios_of_a_plain_pair():
    # preferred 8, 6 against other 7, 5:  8 beats both, 6 beats one; 7 is below one (8), 5 below
    # both
    ratios = win_loss_ratios(torch.tensor([[[8.0, 6.0], [7.0, 5.0]]]))
    assert ratios.tolist() == [[[1.0, 0.5], [0.5, 1.0]]]


def test_ties_earn_nothing_on_either_side():
    ratios = win_loss_ratios(torch.tensor([[[5.0, 5.0], [5.0, 5.0]]]))
    assert ratios.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_an_unreadable_trace_earns_nothing_and_gives_nothing_to_the_other_side():
    # preferred 8, unreadable against other 7, unreadable: of four comparisons only 8 > 7 counts; N
    # stays 2
    ratios = win_loss_ratios(torch.tensor([[[8.0, NAN], [7.0, NAN]]]))
    assert ratios.tolist() == [[[0.5, 0.0], [0.5, 0.0]]]


def test_the_two_sides_share_the_wins_between_them():
    scores = torch.tensor([[[1.0, 9.0, 4.0], [3.0, 4.0, NAN]], [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0]]])
    ratios = win_loss_ratios(scores)
    assert torch.allclose(ratios[0], torch.tensor([[0.0, 2 / 3, 1 / 3], [2 / 3, 1 / 3, 0.0]]))
    assert ratios[1].tolist() == [pytest.approx([1 / 3] * 3), pytest.approx([1.0, 0.0, 0.0])]
    assert torch.allclose(ratios.sum(2)[:, 0], ratios.sum(2)[:, 1])


def test_ratios_equal_the_definition_written_as_loops():
    torch.manual_seed(0)
    scores = torch.randint(0, 5, (7, 2, 6)).float()
    scores[torch.rand(scores.shape) < 0.15] = NAN
    ratios = win_loss_ratios(scores)
    for p in range(7):
        for j in range(6):
            wins = sum(bool(scores[p, 0, j] > scores[p, 1, k]) for k in range(6)) / 6
            losses = sum(bool(scores[p, 1, j] < scores[p, 0, k]) for k in range(6)) / 6
            assert ratios[p, 0, j].item() == pytest.approx(wins)
            assert ratios[p, 1, j].item() == pytest.approx(losses)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="pairs, 2, traces"):
        win_loss_ratios(torch.zeros(4, 8))


def test_tie_rate_counts_readable_comparisons_only():
    # 2 × 2 comparisons; the unreadable one leaves (5 v 5) tied and (5 v 7) not
    assert tie_rate(torch.tensor([[[5.0, NAN], [5.0, 7.0]]])).item() == 0.5
    assert math.isnan(tie_rate(torch.full((1, 2, 2), NAN)).item())


def test_advantages_are_centred_in_their_own_group_and_not_scaled():
    advantages = group_advantages(torch.tensor([[1.0, 0.5, 0.0, 0.5], [0.2, 0.2, 0.2, 0.2]]))
    assert advantages[0].tolist() == [0.5, 0.0, -0.5, 0.0]
    assert advantages[1].tolist() == pytest.approx([0.0] * 4)


def test_weighted_advantage_by_hand():
    assert weighted_advantage(
        torch.tensor([0.5, -0.5]), torch.tensor([10, 20])
    ).item() == pytest.approx((0.05 - 0.025) / 2)


def test_groups_without_variance_are_counted_by_their_rewards():
    # all lost; all won; one of three differs
    rewards = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.25]])
    assert zero_variance_groups(rewards).item() == pytest.approx(2 / 3)


def test_the_clipped_loss_by_hand():
    ratio = torch.tensor([[1.5, 1.0, 9.0], [0.5, 1.1, 1.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    # trace 1, A = 1: ratios 1.5 → clipped 1.2, 1.0; the third token is padding: mean 1.1
    # trace 2, A = −2: ratio .5 → max cost keeps clip .8 → −1.6; 1.1 → −2.2; 1 → −2: mean −5.8/3
    gain = clipped_objective(ratio, torch.tensor([1.0, -2.0]), 0.2)
    assert mean_over_traces(gain, mask).item() == pytest.approx((1.1 - 5.8 / 3) / 2)


def test_tokens_count_as_clipped_where_the_clip_takes_their_gradient():
    ratio = torch.tensor([[0.7, 1.0, 1.3], [0.7, 1.0, 1.3], [0.7, 1.0, 1.3]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 0.0])
    low, high = clipped_tokens(ratio, advantages, 0.2)
    assert low.tolist() == [[False] * 3, [True, False, False], [False] * 3]
    assert high.tolist() == [[False, False, True], [False] * 3, [False] * 3]
    clipped_objective(ratio, advantages, 0.2).sum().backward()
    assert torch.equal(ratio.grad[:2] == 0, (low | high)[:2])


def test_on_policy_the_gradient_is_that_of_advantage_times_log_probability():
    logps = torch.randn(2, 4, requires_grad=True)
    advantages, mask = torch.tensor([0.3, -0.7]), torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    ratio = (logps - logps.detach()).exp()
    (-mean_over_traces(clipped_objective(ratio, advantages, 0.2), mask)).backward()
    expected = -(advantages[:, None] * mask / mask.sum(1, keepdim=True)) / 2
    assert torch.allclose(logps.grad, expected)


def test_the_kl_estimate_is_zero_where_the_policies_agree_and_unbiased_where_they_do_not():
    assert kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-1.0]])).item() == 0
    # a coin: π = (¾, ¼), reference = (½, ½); the estimate's mean under π is Σ π log(π / reference)
    policy, reference = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    estimate = kl_estimate(policy.log()[None], reference.log()[None])[0]
    assert (policy * estimate).sum().item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )
