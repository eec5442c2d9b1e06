"""Files of other stages as the report stage reads them, written through their contracts."""

import pytest

from hybrid_lora.contracts import allocation, modules
from hybrid_lora.contracts.modules import TYPES


@pytest.fixture
def placement(tmp_path):
    """Writes modules.json and an allocation for a model of `layers` layers; returns both paths.

    full: set of (layer, type) that get full fine-tuning.
    """

    def write(layers, full, name="m", unit="params", used=0.1):
        identity = {"id": name, "revision": "r", "architecture_sha256": "0" * 64}
        listed = [
            {"module": _name(i, t), "layer": i, "type": t, "params": 4, "in_features": 2, "out_features": 2}
            for i in range(layers)
            for t in TYPES
        ]
        modules_path, allocation_path = tmp_path / f"{name}.modules.json", tmp_path / f"{name}.allocation.json"
        modules.write(modules_path, identity, 1000, listed)
        names = [m["module"] for m in listed if (m["layer"], m["type"]) in full]
        rest = [m["module"] for m in listed if m["module"] not in names]
        values = {
            "schema_version": 1,
            "model": identity,
            "probe": "default",
            "criterion": "hybrid",
            "scores": {"path": "scores.parquet", "sha256": "0" * 64},
            "budget": {"unit": unit, "ratio": 0.1, "used": used},
            "overflow": "stop",
            "ties": "layer, type",
            "fft": names,
            "lora": {"rank": 2, "alpha": 4, "names": rest},
            "counts": {"fft": len(names), "lora": len(rest), "trainable": 8, "candidates": len(listed)},
        }
        allocation.write(allocation_path, values)
        return modules_path, allocation_path

    return write


def _name(layer, kind):
    group = "self_attn" if kind in "qkvo" else "mlp"
    return f"model.layers.{layer}.{group}.{kind}_proj"
