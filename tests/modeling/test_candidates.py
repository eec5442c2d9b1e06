"""Candidates on tiny random models of several architectures, and the errors on others."""

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts.modules import TYPES
from hybrid_lora.modeling import candidates

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
    "mistral": (MistralForCausalLM, MistralConfig),
    "gemma": (GemmaForCausalLM, GemmaConfig),
}


def build(family):
    model, config = FAMILIES[family]
    with torch.device("meta"):
        return model(config(**SHAPE))


@pytest.mark.parametrize("family", FAMILIES)
def test_seven_linears_a_layer_in_order(family):
    found = candidates.find(build(family))
    assert [(c.layer, c.type) for c in found] == [(layer, part) for layer in range(12) for part in TYPES]
    assert len({c.module for c in found}) == 84
    bias = family == "qwen2"  # q, k, v carry one there
    sizes = {c.type: c.params for c in found[:7]}
    assert sizes["q"] == 32 * 32 + 32 * bias
    assert sizes["k"] == 32 * 16 + 16 * bias
    assert sizes["o"] == 32 * 32
    assert sizes["down"] == 48 * 32


def test_fused_projections_are_refused():
    with torch.device("meta"):
        model = Phi3ForCausalLM(Phi3Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"}, pad_token_id=0))
    with pytest.raises(UserError, match=r"Phi3ForCausalLM: layer 0 must hold .* found .*qkv_proj.*gate_up_proj"):
        candidates.find(model)


def test_other_architectures_are_refused():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4))
    with pytest.raises(UserError, match=r"GPT2LMHeadModel: .*no decoder layer with linears"):
        candidates.find(model)


def test_architecture_hash_tells_shapes_apart():
    with torch.device("meta"):
        other = Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"intermediate_size": 64}))
    one = candidates.architecture_sha256(build("qwen2"))
    assert one == candidates.architecture_sha256(build("qwen2"))
    assert one != candidates.architecture_sha256(other)
    assert one != candidates.architecture_sha256(build("llama"))
