"""AutoLoRA's two kinds of weights, and rank counts worked by hand."""

import math

import pytest
import torch

from hybrid_lora.modeling import load
from hybrid_lora.probe import autolora


def test_absolute_value_of_alpha(model_folder):
    branch = next(iter(autolora.attach(load.model(model_folder), 3, "module", 0).values()))
    branch.alpha.data.fill_(-0.25)
    assert autolora._row(branch, "module") == {
        "module": "model.layers.0.self_attn.q_proj",
        "layer": 0,
        "type": "q",
        "value": 0.25,
        "importance": 0.25,
    }


@pytest.mark.parametrize("weights, start", [("module", torch.tensor(1.0)), ("rank", torch.zeros(3))])
def test_trains_a_b_and_the_weights_alone(model_folder, weights, start):
    model = load.model(model_folder)
    branches = autolora.attach(model, 3, weights, 0).values()
    learned = [autolora.weight_of(branch, weights) for branch in branches]
    expected = {id(p) for p in learned} | {id(p) for branch in branches for p in (branch.A, branch.B)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == expected and len(expected) == 3 * 14
    assert all(torch.equal(weight, start) for weight in learned)


def test_components_are_weighed_by_the_softmax(model_folder):
    branch = autolora.attach(load.model(model_folder), 3, "rank", 0)["model.layers.1.mlp.down_proj"]
    torch.testing.assert_close(branch.e, torch.full((3,), 1 / 3))
    branch.B.data.normal_()
    autolora.weight_of(branch, "rank").data.copy_(torch.tensor([0.0, math.log(2), 0.0]))
    x = torch.randn(5, 48)
    expected = branch.base(x) + x @ branch.A @ torch.diag(torch.tensor([0.25, 0.5, 0.25])) @ branch.B
    torch.testing.assert_close(branch(x), expected)


@pytest.mark.parametrize(
    "logits, count, share",
    [
        ([0.0, math.log(2), 0.0], 1, 1 / 2),  # 1/4, 1/2, 1/4 against 1/3
        ([math.log(2), math.log(2), 0.0, 0.0], 2, 2 / 3),  # 1/3, 1/3, 1/6, 1/6 against 1/4
        ([math.log(3), math.log(2), 0.0], 2, 5 / 6),  # 1/2, 1/3, 1/6: 1/3 itself is enough
        ([1e-4, 0.0, 0.0], 1, 1 / 3 + 1e-4 * 2 / 9),  # the tolerance forgives no step of Adam
        ([7.5], 1, 1.0),
    ],
)
def test_ranks_worked_by_hand(logits, count, share):
    found = autolora.kept(torch.tensor(logits))
    assert found[0] == count and found[1] == pytest.approx(share, rel=1e-6)


def test_equal_components_are_all_kept():
    """Rounding leaves r times the softmax under 1 for some r; none of them may lose its components for that."""
    cases = [(rank, value) for rank in range(1, 65) for value in (0.0, 0.1, -1.7)]
    assert any((torch.full((r,), v).double().softmax(0) * r < 1).all() for r, v in cases)
    assert all(autolora.kept(torch.full((r,), v)) == (r, pytest.approx(1)) for r, v in cases)
