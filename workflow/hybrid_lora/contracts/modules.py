"""modules.json in results/models/{model}/: the candidate modules (Eq. 1-2), listed without loading weights.

A list in layer order, then q, k, v, o, gate, up, down: {module: exact name, layer, type, params (bias included),
in_features, out_features}; plus the model's identity and its total number of parameters.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json

TYPES = ("q", "k", "v", "o", "gate", "up", "down")  # this order breaks ties
KEYS = ("model", "total_params", "modules")


def write(path, model, total_params, modules):
    """model: {id, revision, architecture_sha256}; total_params: int; modules: list of dicts as above."""
    write_json(path, {"model": model, "total_params": total_params, "modules": modules})


def read(path):
    """{model, total_params, modules}."""
    value = read_json(path)
    missing = [k for k in KEYS if not isinstance(value, dict) or k not in value]
    if missing:
        raise UserError(f"{path}: key '{missing[0]}' is missing; not a module list of the model stage")
    return value
