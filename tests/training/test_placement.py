"""Placements as real PEFT models of the tiny Qwen2: exactly the right modules in full and with LoRA, and their counts."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper

from hybrid_lora.allocation import budgets, select, shapes
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation, scores
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import candidates, hybrid, load
from hybrid_lora.training import placement

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
ATTENTION = {f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qkvo"}
FFN = {f"model.layers.{layer}.mlp.{part}_proj" for layer in (0, 1) for part in ("gate", "up", "down")}
# hidden 32, MLP 48, 4 heads of 8 with 2 key and value heads, biases on q, k, v
ATTENTION_PARAMS = 2 * ((32 * 32 + 32) + 2 * (32 * 16 + 16) + 32 * 32)
LORA_ATTENTION = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16))
LORA_FFN = 2 * 4 * 3 * (32 + 48)


def wrap(model, name, lora=LORA, allocated=None):
    config = placement.peft_config(model, name, lora, allocated)
    return model if config is None else get_peft_model(model, config)


def placed(wrapped):
    """(names trained in full, names with LoRA) of a PEFT model, from its modules."""
    names = {name.removeprefix("base_model.model."): module for name, module in wrapped.named_modules()}
    full = {name for name, module in names.items() if isinstance(module, ModulesToSaveWrapper)}
    return full, {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}


def test_lora_ffn_is_attention_in_full_and_lora_on_the_rest(model_folder):
    wrapped = wrap(load.model(model_folder), "lora-ffn")
    assert placed(wrapped) == (ATTENTION, FFN)
    trainable = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert {name for name in trainable if ".self_attn." in name} == {
        f"base_model.model.{module}.modules_to_save.default.{kind}"
        for module in ATTENTION
        for kind in (("weight",) if ".o_proj" in module else ("weight", "bias"))
    }
    assert {name for name in trainable if ".self_attn." not in name} == {
        f"base_model.model.{module}.lora_{matrix}.default.weight" for module in FFN for matrix in "AB"
    }


@pytest.mark.parametrize(
    ("name", "fft", "lora"),
    [
        ("lora", 0, LORA_ATTENTION + LORA_FFN),
        ("lora-ffn", ATTENTION_PARAMS, LORA_FFN),
    ],
)
def test_counts(model_folder, name, fft, lora):
    whole = sum(p.numel() for p in load.shape(model_folder).parameters())
    counts = placement.trainable_counts(wrap(load.model(model_folder), name))
    assert counts == {"fft": fft, "lora": lora, "total": fft + lora, "all": whole}


def test_counts_at_the_papers_size():
    """28 layers of Qwen2.5-1.5B without weights: PEFT trains what the budgets table counts, 154.2 + 14.1 M."""
    settings = {"ratio": 0.1, "absolute": None, "overflow": "stop", "lora": {"rank": 16}}
    (row,) = [row for row in budgets.rows_of("1.5B", settings) if row["placement"] == "lora-ffn"]
    with torch.device("meta"):
        counts = placement.trainable_counts(wrap(shapes.model("1.5B"), "lora-ffn", {**LORA, "rank": 16}))
    assert (counts["fft"], counts["lora"]) == (row["fft_params"], row["lora_params"]) == (154_198_016, 14_106_624)
    assert counts["all"] == row["total_params"]


def test_lora_has_all_candidates_and_full_no_adapter(model_folder):
    assert placed(wrap(load.model(model_folder), "lora")) == (set(), ATTENTION | FFN)
    model = load.model(model_folder)
    assert wrap(model, "full") is model
    counts = placement.trainable_counts(model)
    assert counts["fft"] == counts["all"] == sum(p.numel() for p in model.parameters()) and counts["lora"] == 0


def test_lora_ffn_starts_as_the_original_and_trains_both_kinds(model_folder):
    ids = torch.arange(24).reshape(2, 12)
    base = load.model(model_folder)
    original = base(input_ids=ids).logits
    wrapped = wrap(base, "lora-ffn")
    assert torch.equal(wrapped.eval()(input_ids=ids).logits, original)
    full, lora = hybrid.split_parameters(wrapped)
    before = [p.detach().clone() for p in [*full, *lora]]
    optimizer = torch.optim.SGD([*full, *lora], lr=0.1)
    for _ in range(2):  # LoRA's A moves once B has
        optimizer.zero_grad()
        wrapped(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip([*full, *lora], before, strict=True))
    with wrapped.disable_adapter():
        assert torch.equal(wrapped(input_ids=ids).logits, original)


def test_lora_ffn_can_be_saved_and_merged(model_folder, tmp_path):
    wrapped = wrap(load.model(model_folder), "lora-ffn").eval()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01
    wrapped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load.model(model_folder), tmp_path).eval()
    ids = torch.arange(24).reshape(2, 12)
    assert torch.equal(again(input_ids=ids).logits, wrapped(input_ids=ids).logits)
    merged = hybrid.load_policy(model_folder, tmp_path).eval()
    torch.testing.assert_close(merged(input_ids=ids).logits, wrapped(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_criterion_is_what_the_allocation_says(model_folder, tmp_path):
    listed = modules_file.read(model_folder / "modules.json")["modules"]
    rows = [{**{k: m[k] for k in ("module", "layer", "type", "params")}, "rank": 14 - i} for i, m in enumerate(listed)]
    ranked = [{**row, "mu": None, "sigma": None, "score": 0.0, "batches": 0} for row in rows]
    scores.write(tmp_path / "s.parquet", ranked, {"probe": "default", "criterion": "random"})
    chosen = {"unit": "modules", "amount": 0.5, "overflow": "stop", "lora": LORA}
    select.run(chosen, tmp_path / "s.parquet", model_folder / "modules.json", tmp_path / "a.json")
    value = allocation.read(tmp_path / "a.json")
    wrapped = wrap(load.model(model_folder), "criterion", None, tmp_path / "a.json")
    full, lora = placed(wrapped)
    assert full == {m["module"] for m in listed if m["layer"] == 1} == set(value["fft"])
    assert lora == {m["module"] for m in listed if m["layer"] == 0}
    assert placement.trainable_counts(wrapped)["total"] == value["counts"]["trainable"]


def test_counts_agree_with_the_candidates(model_folder):
    """The sizes above are the fixture's: its candidates say the same."""
    found = candidates.find(load.shape(model_folder))
    assert {c.module for c in found if c.type in placement.ATTENTION} == ATTENTION
    assert sum(c.params for c in found if c.type in placement.ATTENTION) == ATTENTION_PARAMS


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        ("lora-fnn", LORA, "key 'placement' is 'lora-fnn'; allowed: full, lora, lora-ffn, criterion"),
        ("lora-ffn", None, "key 'lora' is missing; placement 'lora-ffn' needs rank"),
        ("criterion", LORA, "needs an allocation file"),
    ],
)
def test_bad_placements_are_one_line(model_folder, name, lora, message):
    with pytest.raises(UserError, match=message) as error:
        placement.peft_config(load.shape(model_folder), name, lora)
    assert "\n" not in str(error.value)
