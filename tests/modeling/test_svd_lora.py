"""Eq. 6-7: the branch's arithmetic, what is frozen, and the start values."""

import pytest
import torch
from torch import nn

from hybrid_lora.modeling import candidates, load, svd_lora

LORA = {"method": "lora", "e": 1.0, "alpha": 1.0}


def branch(init, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(5, 3, bias=bias)
    candidate = candidates.Candidate("m", 0, "q", 18, 5, 3)
    return svd_lora.SVDLoRALinear(linear, candidate, 2, init, torch.Generator().manual_seed(1))


def test_equation_7():
    probe = branch({"method": "adalora", "e": 0.5, "alpha": 2.0})
    with torch.no_grad():
        probe.e.copy_(torch.tensor([0.3, -0.7]))
    x = torch.randn(4, 5)
    W, b = probe.base.weight.T, probe.base.bias
    expected = x @ W + b + 2.0 * (x @ probe.A @ torch.diag(probe.e) @ probe.B)
    torch.testing.assert_close(probe(x), expected)
    probe.active = False
    torch.testing.assert_close(probe(x), x @ W + b)


def test_lora_start_is_the_original_model_and_adalora_takes_e():
    probe = branch(LORA)
    x = torch.randn(4, 5)
    assert torch.equal(probe(x), probe.base(x))
    assert probe.A.abs().max() <= 1 / 5**0.5
    assert torch.equal(probe.e, torch.ones(2))
    zero = branch({"method": "adalora", "e": 0.0, "alpha": 1.0})
    assert zero.B.any()
    assert not zero.e.any()


def test_only_the_branches_train_and_e_is_informative_after_one_step(model_folder):
    model = load.model(model_folder)
    branches = svd_lora.attach(model, 4, LORA, seed=0)
    assert len(branches) == 14
    trainable = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"A", "B", "e", "alpha"}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.arange(20).view(1, 20)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert all((b.e * b.e.grad).abs().sum() > 0 for b in branches.values())


def test_start_depends_on_seed_and_name_alone(model_folder):
    one = svd_lora.state(svd_lora.attach(load.model(model_folder), 4, LORA, seed=0))
    torch.manual_seed(123)
    assert all(torch.equal(v, one[k]) for k, v in svd_lora.state(svd_lora.attach(load.model(model_folder), 4, LORA, 0)).items())
    other = svd_lora.state(svd_lora.attach(load.model(model_folder), 4, LORA, seed=1))
    assert not torch.equal(one["model.layers.0.mlp.up_proj.A"], other["model.layers.0.mlp.up_proj.A"])


@pytest.mark.parametrize("names", [set(), {"model.layers.1.mlp.up_proj"}])
def test_mask_switches_exactly_the_others_off(model_folder, names):
    model = load.model(model_folder)
    branches = svd_lora.attach(model, 4, {"method": "adalora", "e": 1.0, "alpha": 1.0}, seed=0)
    svd_lora.set_active(branches, names)
    assert {n for n, b in branches.items() if b.active} == names
    ids = torch.arange(20).view(1, 20)
    same = torch.equal(model(input_ids=ids).logits, load.model(model_folder)(input_ids=ids).logits)
    assert same == (not names)
