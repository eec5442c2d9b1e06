"""Fast hybrid layers: values and gradients of PEFT's own modules, in float64, for every family; when PEFT's are used."""

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, OlmoConfig, Qwen2Config, Qwen3Config

from hybrid_lora.modeling import candidates, fast_layers, hybrid

SHAPE = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "eager",
}
FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig, "mistral": MistralConfig, "gemma": GemmaConfig}
IDS = torch.arange(18).view(2, 9) * 5


def hybrid_model(family="qwen2", share=3, dtype=torch.float64, dropout=0.0):
    """A PEFT hybrid with every share-th module in full, all its LoRA branches at work."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(FAMILIES[family](**SHAPE)).to(dtype)
    names = [c.module for c in candidates.find(base)]
    fft = names[1::share]
    lora = {"rank": 4, "alpha": 12, "dropout": dropout, "names": [name for name in names if name not in fft]}
    model = get_peft_model(base, hybrid.lora_config(lora, fft))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers zeroes them
            torch.nn.init.normal_(parameter, std=0.2)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(dtype, torch.float32))
            if ".lora_B." in name or ".modules_to_save." in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def outcome(model, **inputs):
    """(loss, gradients by name)."""
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, **inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, tolerance=1e-10):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=tolerance, atol=tolerance)


def test_queries_that_are_clamped_in_place_are_left_to_peft(monkeypatch):
    monkeypatch.setitem(FAMILIES, "olmo", lambda **shape: OlmoConfig(clip_qkv=0.3, pad_token_id=0, eos_token_id=1, **shape))
    model = hybrid_model("olmo")
    expected = outcome(model)
    assert fast_layers.apply(model) == 21 - 3 * 3
    assert_same(outcome(model), expected)


@pytest.mark.parametrize("share", [2, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_pefts(family, share):
    model = hybrid_model(family, share)
    expected = outcome(model)
    assert fast_layers.apply(model) == 21
    assert_same(outcome(model), expected)
    assert any(gradient.any() for gradient in expected[1].values())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_with_recomputed_activations(reentrant):
    model = hybrid_model()
    expected = outcome(model)
    fast_layers.apply(model)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    assert_same(outcome(model), expected)


def test_the_mlp_is_computed_as_one_only_where_its_activation_is_silu():
    for family, whole in (("qwen2", True), ("gemma", False)):
        model = hybrid_model(family)
        fast_layers.apply(model)
        mlp = model.get_base_model().get_decoder().layers[0].mlp
        assert ("forward" in vars(mlp)) == whole


def test_disabled_and_merged_adapters_are_the_original_model():
    model = hybrid_model()
    fast_layers.apply(model)
    outcome(model)
    plain = AutoModelForCausalLM.from_config(FAMILIES["qwen2"](**SHAPE)).double()
    plain.load_state_dict(
        {
            name.replace(".base_layer", "").replace(".original_module", ""): value
            for name, value in model.get_base_model().state_dict().items()
            if ".lora_" not in name and ".modules_to_save." not in name
        }
    )
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, logits)
        model.unmerge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [2, 3, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_the_policy_bit_for_bit_until_an_update(family, share, dtype, monkeypatch):
    """Hence a KL of exactly 0; afterwards they differ, and the reference is still what PEFT computes with the adapter off."""
    model = hybrid_model(family, share, dtype)

    def reference():
        with torch.no_grad(), model.disable_adapter(), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            return model(input_ids=IDS).logits

    of_peft = reference()
    assert fast_layers.apply(model) == 21
    torch.testing.assert_close(reference(), of_peft, rtol=1e-5 if dtype == torch.float32 else 0.05, atol=1e-5)
    modules = list(model.get_base_model().modules())
    for module in modules:
        if hasattr(module, "original_module"):
            module.modules_to_save["default"].load_state_dict(module.original_module.state_dict())
        elif hasattr(module, "lora_B"):
            torch.nn.init.zeros_(module.lora_B["default"].weight)
    with monkeypatch.context() as patch:
        patch.setattr(LoraLinear, "forward", None)  # PEFT's own is not asked
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            policy = model(input_ids=IDS).logits
        first = reference()
    assert torch.equal(policy, first)
    with torch.no_grad():
        for module in modules:
            if hasattr(module, "original_module"):
                module.modules_to_save["default"].weight += 0.1
            elif hasattr(module, "lora_B"):
                module.lora_B["default"].weight += 0.1
        assert not torch.equal(model(input_ids=IDS).logits, policy)
    assert torch.equal(reference(), first)


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_an_optimizer_step_is_seen(options):
    model, twin = hybrid_model(dtype=torch.float32), hybrid_model(dtype=torch.float32)
    fast_layers.apply(model)
    for one in (model, twin):
        optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=0.1, **options)
        for _ in range(2):
            outcome(one)
            optimizer.step()
    assert_same(outcome(model), outcome(twin), 1e-3)


def test_weights_put_back_in_place_are_seen():
    model = hybrid_model()
    fast_layers.apply(model)
    first = outcome(model)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    assert outcome(model)[0] != first[0]
    model.load_state_dict(saved)
    assert_same(outcome(model), first)


def layer(model, which, seed):
    """(outputs, gradient of the input, gradients of the weights) of a layer's MLP or of its q, k and v, float64."""
    part = model.get_base_model().get_decoder().layers[1]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 9, 32, generator=generator).bfloat16().to(part.input_layernorm.weight.dtype).requires_grad_()
    for hook in model.get_base_model().get_decoder()._forward_pre_hooks.values():
        hook()
    linears = [part.mlp] if which == "mlp" else [getattr(part.self_attn, f"{name}_proj") for name in "qkv"]
    out = torch.cat([linear(x) for linear in linears], -1)
    out.backward(torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype))
    trained = [p.grad for module in linears for p in module.parameters() if p.grad is not None]
    return [tensor.detach().double() for tensor in (out, x.grad, *trained)]


@pytest.mark.parametrize("which", ["mlp", "qkv"])
def test_bf16_base_under_autocast_is_as_near_to_exact_as_pefts(which):
    errors = {"peft": 0.0, "fast": 0.0}
    for seed in range(8):
        exact = hybrid_model()
        expected = layer(exact, which, seed)
        for side in errors:
            model = hybrid_model(dtype=torch.bfloat16)
            with torch.no_grad():
                for parameter, wide in zip(model.parameters(), exact.parameters()):
                    parameter.copy_(wide)
            if side == "fast":
                fast_layers.apply(model)
            with torch.autocast("cpu", torch.bfloat16):
                found = layer(model, which, seed)
            errors[side] += sum(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))
    assert 0 < errors["fast"] < 1.05 * errors["peft"]


def test_dropout_and_another_precision_are_left_to_peft():
    model = hybrid_model(dropout=0.5)
    fast_layers.apply(model)
    assert "forward" not in vars(model.get_base_model().model.layers[0].self_attn.q_proj)
    model = hybrid_model(dtype=torch.float32)
    expected = outcome(model)
    fast_layers.apply(model)
    with torch.autocast("cpu", torch.bfloat16):  # the frozen base is float32: PEFT's way, casts and all
        assert outcome(model)[0] == pytest.approx(expected[0], rel=0.05)
    assert_same(outcome(model), expected, 1e-4)


def test_remove_takes_everything_back():
    model = hybrid_model()
    fast_layers.apply(model)
    fast_layers.remove(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not model.get_base_model().get_decoder()._forward_pre_hooks
