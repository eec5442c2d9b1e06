"""Candidates on tiny random models of several architectures, and the errors on others."""

import pytest
import torch
import transformers
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
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


OTHERS = {  # what was found is named, by the decoder's own words
    "GPT2": (
        {"n_layer": 2, "n_embd": 32, "n_head": 4},
        r"found h\.0: attn\.c_attn \(Conv1D\), attn\.c_proj \(Conv1D\), mlp\.c_fc",
    ),
    "GPTNeoX": (SHAPE, r"layer 0 .*found attention\.query_key_value, attention\.dense, mlp\.dense_h_to_4h"),
    "OPT": ({"hidden_size": 32, "num_attention_heads": 4, "word_embed_proj_dim": 32}, r"found self_attn\.k_proj.* fc1, fc2 \("),
    "Qwen2Moe": (
        SHAPE | {"num_experts": 4},
        r"layer 0 is a mixture of experts \(mlp\.experts\), which is not",
    ),
    "Mixtral": (SHAPE | {"num_local_experts": 4}, r"layer 0 is a mixture of experts \(mlp\.experts\)"),
    "Bart": ({"d_model": 32}, r"layer 0 holds two 'k' modules, model\.decoder\.\S+self_attn\.k_proj and \S+encoder_attn\.k_proj"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_refused(name):
    shape, message = OTHERS[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**shape))
    with pytest.raises(UserError, match=message) as error:
        candidates.find(model)
    assert str(error.value).startswith(type(model).__name__) and "\n" not in str(error.value)


def test_cross_attention_that_text_skips_is_refused():
    shape = {key: value for key, value in SHAPE.items() if key != "head_dim"}
    words = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.MllamaConfig(text_config=shape | words | {"cross_attention_layers": [1]}).text_config
    with torch.device("meta"):
        model = transformers.MllamaForCausalLM(config)
    with pytest.raises(UserError, match=r"layer 1 attends to images \(cross_attn\.q_proj\) and is skipped for text"):
        candidates.find(model)


def test_linears_with_a_forward_pass_of_their_own_are_refused():
    """Quantized layers, for example: a measurement would multiply by `weight` as if it were plain."""

    class Rounded(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).round()

    model = build("llama")
    with torch.device("meta"):
        model.model.layers[3].mlp.up_proj = Rounded(32, 48, bias=False)
    with pytest.raises(UserError, match=r"layer 3 must hold .* found .*mlp\.up_proj \(Rounded\)"):
        candidates.find(model)


def test_a_multimodal_model_has_those_of_its_language_model():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    config = transformers.Gemma3Config(text_config=SHAPE, vision_config=vision | {"patch_size": 14})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert any("vision_tower" in name and name.endswith("q_proj") for name, _ in model.named_modules())
    found = candidates.find(model)
    assert len(found) == 84 and all(c.module.startswith("model.language_model.layers.") for c in found)


def test_architecture_hash_tells_shapes_apart():
    with torch.device("meta"):
        other = Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"intermediate_size": 64}))
    one = candidates.architecture_sha256(build("qwen2"))
    assert one == candidates.architecture_sha256(build("qwen2"))
    assert one != candidates.architecture_sha256(other)
    assert one != candidates.architecture_sha256(build("llama"))
