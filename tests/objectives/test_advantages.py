"""Eq. 18 against figures worked out by hand, and what becomes of completions that the grader could not judge."""

import math

import pytest
import reference
import torch

from hybrid_lora.objectives.advantages import eq18, flat


def test_one_right_answer_of_four():
    found = eq18(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 1e-8)[0]
    assert found[0] == pytest.approx(math.sqrt(3), abs=1e-6)  # TRL: 1.500
    assert found[1:].tolist() == pytest.approx([-1 / math.sqrt(3)] * 3, abs=1e-6)


def test_epsilon_is_added_to_the_variance():
    found = eq18(torch.tensor([[1.0, 0.0]]), 0.75)[0]  # variance 0.25
    assert found.tolist() == pytest.approx([0.5, -0.5])


def test_no_variance_gives_no_signal():
    assert eq18(torch.full((2, 4), 0.1), 1e-8).abs().max() < 1e-3


def test_rewards_that_differ_little():
    """Lengths near the limit of 4,096 tokens: in float32 the fourth digit would be wrong."""
    rewards = [0.9 + 0.1 * n / 4096 for n in (0, 1, 0, 3)]
    found = eq18(torch.tensor([rewards]), 1e-8)[0].tolist()
    stored = torch.tensor(rewards).tolist()
    assert found == pytest.approx(reference.advantages(stored, "eq18", 1e-8), abs=1e-6)
    assert eq18(torch.full((1, 3), 100.1), 1e-8).abs().max() < 1e-6  # equal rewards


def test_unjudged_completions_are_out_of_their_group():
    nan = float("nan")
    found = eq18(torch.tensor([[1.0, 0.0, nan, nan], [nan, nan, nan, nan], [nan, 1.0, nan, nan]]), 1e-8)
    assert found[0].tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-6)
    assert found[1:].tolist() == [[0.0] * 4] * 2


def test_groups_without_two_judged_rewards_that_differ():
    nan = float("nan")
    rewards = [[1.0, 1.0, 1.0, 1.0], [nan, nan, nan, nan], [nan, 1.0, nan, nan], [nan, 0.3, 0.3, nan], [0.0, 1.0, nan, nan]]
    assert flat(torch.tensor(rewards)) == pytest.approx(4 / 5)
