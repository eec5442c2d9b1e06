"""Fast hybrid layers on a GPU: the kernels against torch, and a bf16 hybrid's gradients as near to exact as PEFT's."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config

from hybrid_lora.modeling import candidates, fast_layers, hybrid

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_swiglu_of_pair():
    from hybrid_lora.modeling import kernels

    both, dout = (torch.randn(37, width, device="cuda", dtype=torch.float64) for width in (2 * 321, 321))
    expected, back = torch.func.vjp(lambda b: torch.nn.functional.silu(b[:, :321]) * b[:, 321:], both)
    torch.testing.assert_close(kernels.swiglu_of_pair(both.float()).double(), expected, rtol=1e-5, atol=1e-6)
    found = kernels.swiglu_of_pair_backward(dout.float(), both.float())
    torch.testing.assert_close(found.double(), back(dout)[0], rtol=1e-5, atol=1e-6)


def test_rotary_of_strided_queries_and_keys():
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    from hybrid_lora.modeling import kernels

    rows = torch.randn(2, 17, (6 + 2 + 2) * 64, device="cuda")
    q, k, _ = rows.split([6 * 64, 2 * 64, 2 * 64], -1)
    q, k = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in (q, k))
    angle = torch.randn(1, 17, 32, device="cuda")
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    for ours, theirs in zip(kernels.rotate(q, k, cos, sin), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def built(dtype):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=512, **SHAPE)).to(dtype)
    names = [c.module for c in candidates.find(base)]
    lora = {"rank": 16, "alpha": 32, "names": [name for name in names if name not in names[1::3]]}
    model = get_peft_model(base, hybrid.lora_config(lora, names[1::3]))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.02
    model.to(torch.float64) if dtype == torch.float64 else hybrid.to_fp32_trainable(model)
    return model.cuda()


def gradients(model, seed):
    ids = torch.randint(0, 512, (4, 96), generator=torch.Generator().manual_seed(seed)).cuda()
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_as_near_to_exact_as_pefts():
    exact, peft, fast = built(torch.float64), built(torch.bfloat16), built(torch.bfloat16)
    with torch.no_grad():
        for narrow, wide in zip(peft.parameters(), exact.parameters()):
            wide.copy_(narrow)
    assert fast_layers.apply(fast) == 14
    errors = {"peft": 0.0, "fast": 0.0}
    for seed in range(4):
        expected = gradients(exact, seed)
        with torch.autocast("cuda", torch.bfloat16):
            found = {"peft": gradients(peft, seed), "fast": gradients(fast, seed)}
        for side, values in found.items():
            assert values.keys() == expected.keys()
            errors[side] += sum(((values[name] - g).norm() / g.norm()).item() for name, g in expected.items())
    assert 0 < errors["fast"] < 1.1 * errors["peft"]


def test_a_step_of_the_fused_optimizer_is_seen():
    model, twin = built(torch.bfloat16), built(torch.bfloat16)
    fast_layers.apply(model)
    for one in (model, twin):
        optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=1e-3, fused=True)
        with torch.autocast("cuda", torch.bfloat16):
            first = gradients(one, 0)
        optimizer.step()
        with torch.autocast("cuda", torch.bfloat16):
            one.second = gradients(one, 0)
        assert any((one.second[name] - g).norm() > 0.05 * g.norm() for name, g in first.items())
    far = sum(((model.second[name] - g).norm() / g.norm()).item() for name, g in twin.second.items()) / len(twin.second)
    assert far < 0.1


def test_the_reference_is_the_policy_bit_for_bit_until_an_update():
    model = built(torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.zeros_(module.lora_B["default"].weight)
    fast_layers.apply(model)
    ids = torch.randint(0, 512, (4, 96), generator=torch.Generator().manual_seed(0)).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        policy = model(input_ids=ids).logits
        with torch.no_grad(), model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, policy)
