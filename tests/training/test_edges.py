"""Odd placements, bases, rows and graders; what stops a training, and what it leaves then."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from samples import conversations
from tiny_runs import OBJECTIVES, run
from transformers import AutoModelForCausalLM

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation, corpus
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import hybrid, load


def test_a_budget_that_holds_every_module(tmp_path, model_folder, corpus_files, allocated):
    """No module is left for LoRA, which PEFT, given no names, would put where it thinks fit."""
    value = json.loads(allocated.read_text())
    every = [*value["fft"], *value["lora"]["names"]]
    value |= {"fft": every, "lora": value["lora"] | {"names": []}}
    allocation.write(tmp_path / "all.json", value)
    run(tmp_path, model_folder, corpus_files, "gspo", allocation=[tmp_path / "all.json"])
    counts = json.loads((tmp_path / "trainable.json").read_text())
    listed = modules_file.read(model_folder / "modules.json")["modules"]
    assert (counts["lora"], counts["fft"]) == (0, sum(m["params"] for m in listed))
    policy = PeftModel.from_pretrained(load.model(model_folder), tmp_path / "policy").eval()  # without our code
    assert not [name for name, _ in policy.named_parameters() if "lora_" in name]
    ids = torch.arange(24).reshape(2, 12)
    merged, base = hybrid.load_policy(model_folder, tmp_path / "policy").eval(), load.model(model_folder).eval()
    logits = [each(input_ids=ids).logits for each in (policy, merged, base)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_full_fine_tuning_of_a_base_whose_generation_config_contradicts_itself(
    objective, tmp_path, model_folder, corpus_files, capsys
):
    """A temperature without sampling, as published models have it; transformers would not save it once a trainer touched it."""
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    own = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": own["eos_token_id"], "temperature": 0.6}))
    run(tmp_path, base, corpus_files, objective, "full")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert model.generation_config.eos_token_id == own["eos_token_id"]
    assert "generation_config.json contradicts itself (`temperature`: `do_sample` is not set" in capsys.readouterr().out


def test_validation_rows_without_room_for_an_answer(tmp_path, model_folder, corpus_files):
    with pytest.raises(UserError, match=r"^corpus tiny: no validation row has an answer within 4 tokens \(max_length\)$"):
        run(tmp_path, model_folder, corpus_files, "sft", "lora", max_length=4)


@pytest.mark.parametrize("metric", ["nll", "reward"])
def test_grader_that_judges_nothing_stops_no_training(metric, tmp_path, model_folder, capfd):
    """Tests that no program can be run on: no reward at all, which is not one of 0, and the loss chooses."""
    rows, tests = conversations(16), {"prompt": "", "test": "def check(candidate):\n    import os\n", "entry_point": "f"}
    for name in ("train", "val"):
        corpus.write(tmp_path / f"{name}.parquet", [row | {"source": "code", "gold": None, "tests": tests} for row in rows])
    files = (tmp_path / "train.parquet", tmp_path / "val.parquet")
    change = {"sources": ["code"], "validation": {"every": 2, "rows": 8, "metric": metric}}
    records = run(tmp_path, model_folder, files, "gspo", "lora", **change)
    assert [r["unjudged"] for r in records] == [32, None, 32, None]
    assert {r.get("reward") for r in records} == {None}
    said = capfd.readouterr()
    assert "reward=" not in said.err and ("validation unjudged 8 at step 4" in said.out) == (metric == "reward")
    assert [r.get("validation_unjudged") for r in records] == ([None, 8, None, 8] if metric == "reward" else [None] * 4)
    about = json.loads((tmp_path / "policy/manifest.json").read_text())
    losses = {r["step"]: r["validation_loss"] for r in records if r["validation_loss"] is not None}
    assert about["selected_step"] == min(losses, key=losses.get) and "validation_reward" not in about


def test_allocation_of_another_model(tmp_path, model_folder, corpus_files, allocated):
    value = json.loads(allocated.read_text())
    value["model"]["architecture_sha256"] = "0" * 64
    other = tmp_path / "other.json"
    allocation.write(other, value)
    with pytest.raises(UserError, match=r"other\.json: made for model tiny of another architecture"):
        run(tmp_path, model_folder, corpus_files, "sft", allocation=[other])


def test_nan_stops_the_run_names_the_step_and_keeps_the_last_good_state(tmp_path, model_folder, corpus_files, monkeypatch):
    from hybrid_lora.objectives.sft import SupervisedTrainer

    compute = SupervisedTrainer.compute_loss

    def broken(self, *args, **kwargs):
        return compute(self, *args, **kwargs) * (float("nan") if self.state.global_step == 2 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "compute_loss", broken)
        with pytest.raises(UserError, match=r"^training r: loss is nan at step 3; .*last good state is kept in .*checkpoint-2$"):
            run(tmp_path, model_folder, corpus_files, "sft", "lora", save_every=1)
    kept = load_file(tmp_path / "state/checkpoint-2/adapter_model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert not (tmp_path / "policy").exists()
    assert len(run(tmp_path, model_folder, corpus_files, "sft", "lora", save_every=1)) == 4  # goes on from step 2


@pytest.mark.parametrize(
    ("objective", "placement", "every", "found"),
    [
        ("gspo", "lora", 50, "the policy's probabilities are not finite"),
        ("gspo", "full", 50, "the policy's probabilities are not finite"),
        ("sft", "lora", 2, "validation loss is nan"),
    ],
)
def test_a_policy_that_overflows_stops_before_its_loss_is_nan(
    objective, placement, every, found, tmp_path, model_folder, corpus_files
):
    """The first step's loss, gradient and weights are still finite; sampling or validation is the first to meet NaN."""
    change = {"learning_rate": {"full": 1e20, "lora": 1e20}, "save_every": 1, "updates_per_generation": 1}
    change["validation"] = {"every": every, "rows": 8, "metric": "nll"}
    change = {k: v for k, v in change.items() if k in OBJECTIVES[objective]}
    with pytest.raises(UserError, match=rf"^{found} at step 2; .*last good state is kept in .*checkpoint-1$"):
        run(tmp_path, model_folder, corpus_files, objective, placement, **change)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, model_folder, corpus_files, monkeypatch):
    """The loss and the gradient of the step that ruins them are still numbers."""
    step = torch.optim.AdamW.step

    def ruin(self, *args, **kwargs):
        step(self, *args, **kwargs)
        self.param_groups[0]["params"][0].data[0, 0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    with pytest.raises(UserError, match=r"a weight is not finite at step 1; .* no state was saved before it$"):
        run(tmp_path, model_folder, corpus_files, "sft", "lora", save_every=1)
    assert not list((tmp_path / "state").glob("checkpoint-*"))
