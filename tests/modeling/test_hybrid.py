"""The hybrid as one PEFT adapter: exact names, nothing changed before training, nothing lost by saving and merging."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from transformers import Qwen2Config, Qwen2ForCausalLM

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import candidates, hybrid, load

FFT = ["model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def wrap(model, fft=FFT):
    names = [c.module for c in candidates.find(model) if c.module not in fft]
    return get_peft_model(model, hybrid.lora_config({**LORA, "names": names}, fft))


@pytest.fixture
def ids():
    return torch.randint(0, 200, (2, 17), generator=torch.Generator().manual_seed(0))


def test_zero_steps_change_nothing(model_folder, ids):
    base = load.model(model_folder)(input_ids=ids).logits
    assert torch.equal(wrap(load.model(model_folder)).eval()(input_ids=ids).logits, base)


def test_exactly_the_named_modules_in_a_deep_model():
    """12 layers: `layers.1.` must not catch `layers.11.`."""
    with torch.device("meta"):
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=12,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
        )
        wrapped = wrap(model)
    saved = {n for n, m in wrapped.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    assert saved == {f"base_model.model.{name}" for name in FFT}
    adapted = {
        n.removeprefix("base_model.model.").split(".lora_A")[0] for n, _ in wrapped.named_modules() if n.endswith(".lora_A")
    }
    assert adapted == {c.module for c in candidates.find(Qwen2ForCausalLM(model.config))} - set(FFT)


def test_save_load_merge_round_trip(model_folder, ids, tmp_path):
    wrapped = wrap(load.model(model_folder)).eval()
    base = load.model(model_folder)(input_ids=ids).logits
    generator = torch.Generator().manual_seed(1)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    trained = wrapped(input_ids=ids).logits
    assert not torch.allclose(trained, base, atol=1e-3)
    with wrapped.disable_adapter():
        assert torch.equal(wrapped(input_ids=ids).logits, base)
    wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(load.model(model_folder), tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, trained)
    merged = hybrid.load_policy(model_folder, tmp_path).eval()
    assert type(merged) is Qwen2ForCausalLM
    torch.testing.assert_close(merged(input_ids=ids).logits, trained, rtol=0, atol=1e-5)


def test_split_parameters_and_fp32(model_folder):
    wrapped = wrap(load.model(model_folder, "bfloat16"))
    hybrid.to_fp32_trainable(wrapped)
    full, lora = hybrid.split_parameters(wrapped)
    model = load.model(model_folder)
    expected = [c for c in candidates.find(model) if c.module in FFT]
    assert sum(p.numel() for p in full) == sum(c.params for c in expected)
    others = [c for c in candidates.find(model) if c.module not in FFT]
    assert sum(p.numel() for p in lora) == sum(4 * (c.in_features + c.out_features) for c in others)
    assert {p.dtype for p in full + lora} == {torch.float32}
    frozen = {p.dtype for p in wrapped.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}


def test_unknown_name(model_folder):
    with pytest.raises(UserError, match=r"a\.json: module 'model\.layers\.9\.x' is not in the model"):
        hybrid.check_names(load.model(model_folder), ["model.layers.9.x"], "a.json")
