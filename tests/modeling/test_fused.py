"""What stands in for transformers' own functions on a GPU must leave to them what it cannot do; kernels are in tests/gpu."""

import pytest
import torch
from torch import nn

from hybrid_lora.modeling import fused


def theirs(q, k, cos, sin, unsqueeze_dim=1):
    return "theirs", q, unsqueeze_dim


def ours(q, k, cos, sin, unsqueeze_dim=1):
    if q % 2:
        raise ValueError("heads of an odd size")
    return "ours", q, unsqueeze_dim


@pytest.mark.parametrize(("size", "by"), [(64, "ours"), (63, "theirs")])
def test_rotation_falls_back(size, by):
    rotate = fused.rotation(theirs, ours)
    assert rotate(size, 1, 2, 3) == (by, size, 1)
    assert rotate(size, 1, cos=2, sin=3, unsqueeze_dim=2) == (by, size, 2)


def test_a_dropout_of_a_module_is_not_lost():
    """Models are loaded in eval mode, in which it does nothing."""
    dropping = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).eval()
    plain = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0)).eval()
    assert fused.same(plain, lambda x: plain[0](x), 8)
    assert not fused.same(dropping, lambda x: dropping[0](x), 8)
    assert not any(part.training for part in dropping.modules())
    assert torch.is_grad_enabled()
