"""Candidate modules (Eq. 1-2): the seven linears of every decoder layer, by exact name.

Works for any Hugging Face decoder whose layers hold linears of these names (Qwen2/3, Llama, Mistral, Gemma); for others,
fused projections and mixtures of experts included, one error says what was found.
"""

import re
from dataclasses import dataclass

from torch import nn

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_json
from hybrid_lora.contracts.modules import TYPES

SUFFIXES = {f"{part}_proj": part for part in TYPES}  # q_proj -> q
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BLOCK = re.compile(r"(?:^|\.)(\w+\.(\d+))\.(.+)")  # of decoders that call their layers something else: h.0, blocks.0
_CROSS = re.compile(r"(?:^|\.)\w*cross_?att\w*\.")
_EXPERTS = re.compile(r"(?:^|\.)\w*experts?(?:\.|$)")


@dataclass(frozen=True)
class Candidate:
    """One module (l, m): its exact name, layer from 0, type, shape, and parameter count P_{l,m} with the bias."""

    module: str
    layer: int
    type: str
    params: int
    in_features: int
    out_features: int


def decoder(model):
    """The part of a causal language model that turns token ids into hidden states; of a multimodal one, its language model."""
    found = model.get_decoder()
    return found.model if found is model and isinstance(getattr(found, "model", None), nn.Module) else found


def find(model):
    """All candidates of a causal language model in layer order, then q, k, v, o, gate, up, down.

    Raises UserError where a layer does not hold each of the seven exactly once, as a plain linear, or holds experts or
    cross-attention.
    """
    layers, inside = {}, decoder(model)
    prefix = next((f"{name}." for name, module in model.named_modules() if module is inside and name), "")
    for name, module in model.named_modules():
        layer, part = _LAYER.search(name), SUFFIXES.get(name.rsplit(".", 1)[-1])
        if not (name.startswith(prefix) and layer):
            continue
        if _EXPERTS.search(name[layer.end() :]):
            raise UserError(
                f"{type(model).__name__}: layer {layer[1]} is a mixture of experts ({name[layer.end() :]}), "
                f"which is not supported; expected the linears {', '.join(SUFFIXES)} once each"
            )
        if part and _CROSS.search(name[layer.end() - 1 :]):
            raise UserError(
                f"{type(model).__name__}: layer {layer[1]} attends to images ({name[layer.end() :]}) and is skipped for text, "
                f"which is not supported; expected self-attention in every layer"
            )
        if part and _plain(module):
            params = sum(p.numel() for p in module.parameters(recurse=False))
            candidate = Candidate(name, int(layer[1]), part, params, module.in_features, module.out_features)
            other = layers.setdefault(int(layer[1]), {}).setdefault(part, candidate)
            if other is not candidate:
                raise UserError(
                    f"{type(model).__name__}: layer {layer[1]} holds two '{part}' modules, {other.module} and {name}; "
                    f"expected the linears {', '.join(SUFFIXES)} once each"
                )
    _check(model, prefix, layers)
    return [layers[number][part] for number in sorted(layers) for part in TYPES]


def _plain(module):
    """Quantized and other linears compute something else than x W + b by a forward pass of their own."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _check(model, prefix, layers):
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    wrong = next((n for n in range(expected or 0) if set(layers.get(n, ())) != set(TYPES)), None)
    if layers and wrong is None and len(layers) == expected:
        return
    where, found = _found(model, prefix, wrong or 0)
    raise UserError(
        f"{type(model).__name__}: layer {wrong or 0} must hold the linears {', '.join(SUFFIXES)}; "
        f"found {f'{where}: ' if where else ''}{', '.join(found) or 'no numbered layer with weight matrices'} "
        f"(fused or renamed projections are not supported)"
    )


def _found(model, prefix, number):
    """(what the decoder calls its layers where that is not `layers`, names of the weight matrices in layer `number`)."""
    blocks = {}
    for name, module in model.named_modules():
        block = _BLOCK.search(name)
        weight = getattr(module, "weight", None)
        if name.startswith(prefix) and block and int(block[2]) == number and getattr(weight, "ndim", 0) == 2:
            shown = block[3] if _plain(module) else f"{block[3]} ({type(module).__name__})"
            blocks.setdefault(block[1], []).append(shown)
    name = f"layers.{number}"
    return (None, blocks[name]) if name in blocks else next(iter(blocks.items()), (None, []))


def architecture_sha256(model):
    """Hash of the model's class and of every parameter's name and shape: equal for models that fit one allocation."""
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return sha256_json({"class": type(model).__name__, "parameters": shapes})
