"""What stands in for transformers' own functions on a GPU must leave to them what it cannot do; kernels are in tests/gpu."""

import pytest

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
