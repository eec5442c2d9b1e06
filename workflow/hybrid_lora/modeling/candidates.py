"""Candidate modules (Eq. 1-2): the seven linears of every decoder layer, by exact name.

Works for any Hugging Face decoder whose layers hold linears of these names (Qwen2/3, Llama, Mistral, Gemma); for others,
fused projections included, one error says what was found.
"""

import re
from dataclasses import dataclass

from torch import nn

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_json
from hybrid_lora.contracts.modules import TYPES

SUFFIXES = {f"{part}_proj": part for part in TYPES}  # q_proj -> q
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class Candidate:
    """One module (l, m): its exact name, layer from 0, type, shape, and parameter count P_{l,m} with the bias."""

    module: str
    layer: int
    type: str
    params: int
    in_features: int
    out_features: int


def find(model):
    """All candidates of a causal language model in layer order, then q, k, v, o, gate, up, down.

    Raises UserError where a layer does not hold each of the seven exactly once.
    """
    layers = {}
    for name, module in model.named_modules():
        layer, part = _LAYER.search(name), SUFFIXES.get(name.rsplit(".", 1)[-1])
        if layer and part and isinstance(module, nn.Linear):
            params = sum(p.numel() for p in module.parameters(recurse=False))
            candidate = Candidate(name, int(layer[1]), part, params, module.in_features, module.out_features)
            if part in layers.setdefault(int(layer[1]), {}):
                raise UserError(
                    f"{type(model).__name__}: two '{part}' modules in layer {layer[1]}; expected the seven linears once each"
                )
            layers[int(layer[1])][part] = candidate
    _check(model, layers)
    return [layers[number][part] for number in sorted(layers) for part in TYPES]


def _check(model, layers):
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    wrong = next((n for n in range(expected or 0) if set(layers.get(n, ())) != set(TYPES)), None)
    if layers and wrong is None and len(layers) == expected:
        return
    first = wrong or 0
    linears = [
        name.split(f"layers.{first}.", 1)[1]
        for name, module in model.named_modules()
        if f"layers.{first}." in name and hasattr(module, "weight") and module.weight.dim() == 2
    ]
    raise UserError(
        f"{type(model).__name__}: layer {first} must hold the linears {', '.join(SUFFIXES)}; "
        f"found {', '.join(linears) or 'no decoder layer with linears'} (fused or renamed projections are not supported)"
    )


def architecture_sha256(model):
    """Hash of the model's class and of every parameter's name and shape: equal for models that fit one allocation."""
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return sha256_json({"class": type(model).__name__, "parameters": shapes})
