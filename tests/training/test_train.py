"""Real TRL training of a tiny model: what moves, what stays, what comes out, and that a killed run goes on."""

import argparse
import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from samples import conversations
from transformers import AutoModelForCausalLM

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation, corpus, history, samples
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import hybrid, load
from hybrid_lora.objectives import timing
from hybrid_lora.training import train, validation

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
GRADING = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
COMMON = {
    "corpus": "tiny",
    "sources": ["math"],
    "steps": 4,
    "device_batch_size": 4,
    "learning_rate": {"full": 1e-3, "lora": 1e-2},
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "dtype": "float32",
    "fast_layers": True,
    "gradient_checkpointing": False,
    "validation": {"every": 2, "rows": 8, "metric": "nll"},
    "save_every": 2,
}
SFT = COMMON | {"algorithm": "sft", "batch_size": 4, "max_length": 64}
RL = COMMON | {
    "prompts_per_generation": 8,
    "updates_per_generation": 2,
    "iterations": 1,
    "group_size": 4,
    "temperature": 1.0,
    "clip": 0.2,
    "kl": 0.01,
    "advantage": "eq18",
    "advantage_epsilon": 1e-8,
    "samples": {"every": 2, "count": 3},
    "max_completion_tokens": 48,
    "rewards": {"accuracy": 1.0, "format": 0.0, "length": 0.5},  # a random model is never right, but sometimes ends early
    "rollouts": "transformers",
}
OBJECTIVES = {"sft": SFT, "grpo": RL | {"algorithm": "grpo"}, "gspo": RL | {"algorithm": "gspo"}}


@pytest.fixture(scope="module")
def allocated(model_folder, tmp_path_factory):
    listed = modules_file.read(model_folder / "modules.json")
    names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
    value = dict.fromkeys(allocation.KEYS)
    value |= {"schema_version": 1, "model": listed["model"], "fft": FFT}
    value |= {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "names": names}}
    path = tmp_path_factory.mktemp("allocation") / "a.json"
    allocation.write(path, value)
    return path


def run(folder, model_folder, corpus_files, objective, placement="criterion", allocation=(), seed=0, **change):
    settings = {"run": "r", "seed": seed, "placement": placement, "objective": OBJECTIVES[objective] | change, "grading": GRADING}
    settings["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0}
    train.run(
        argparse.Namespace(
            settings=settings,
            model=model_folder,
            train=corpus_files[0],
            val=corpus_files[1],
            allocation=list(allocation),
            programs=[],
            out=folder / "policy",
            history=folder / "history.parquet",
            trainable=folder / "trainable.json",
            samples=folder / "samples.parquet",
            state=folder / "state",
            workers=1,
        )
    )
    return history.read(folder / "history.parquet").to_pylist()


def adapter(folder):
    return load_file(folder / "policy" / "adapter_model.safetensors")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hybrid_trains_both_kinds_and_nothing_else(objective, tmp_path, model_folder, corpus_files, allocated):
    records = run(tmp_path, model_folder, corpus_files, objective, allocation=[allocated])
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert [r["validation_loss"] is not None for r in records] == [False, True, False, True]
    assert {r["learning_rate_full"] for r in records} == {1e-3}
    assert {r["learning_rate_lora"] for r in records} == {1e-2}
    base = load.model(model_folder)
    original = dict(base.named_parameters())
    policy = PeftModel.from_pretrained(load.model(model_folder), tmp_path / "policy")  # without our code
    for name, parameter in policy.named_parameters():
        plain = name.removeprefix("base_model.model.")
        if ".modules_to_save." in name:
            key = plain.replace(".modules_to_save.default", "")
            assert key.rsplit(".", 1)[0] in FFT
            assert not torch.equal(parameter, original[key])
        elif "lora_B" in name:
            assert parameter.any()
        elif "lora_A" not in name:
            plain = plain.replace(".base_layer", "").replace(".original_module", "")
            assert torch.equal(parameter, original[plain])
    counts = json.loads((tmp_path / "trainable.json").read_text())
    assert counts["total"] == counts["fft"] + counts["lora"] == sum(v.numel() for v in adapter(tmp_path).values())
    assert counts["all"] == base.num_parameters()
    about = json.loads((tmp_path / "policy/manifest.json").read_text())
    losses = {r["step"]: r["validation_loss"] for r in records if r["validation_loss"] is not None}
    assert about["selected_step"] == min(losses, key=losses.get)
    for name in ("history.parquet", "trainable.json"):
        beside = json.loads((tmp_path / f"{name}.manifest.json").read_text())
        assert beside["settings"] == about["settings"] and beside["inputs"] == about["inputs"]
    if objective != "sft":
        assert records[0]["kl"] == 0.0
        assert records[3]["kl"] > 0
    assert not (tmp_path / "state").exists()


def test_gspo_differs_from_grpo_after_the_first_update(tmp_path, model_folder, corpus_files, allocated):
    """High rates, so that token ratios spread: one ratio a sequence must then clip otherwise."""
    rate = {"learning_rate": {"full": 0.02, "lora": 0.2}}
    one = run(tmp_path / "a", model_folder, corpus_files, "grpo", allocation=[allocated], **rate)
    two = run(tmp_path / "b", model_folder, corpus_files, "gspo", allocation=[allocated], **rate)
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], abs=1e-6)  # ratio 1: equal
    assert max(r["reward"] or 0 for r in one) > 0  # there is something to learn from
    assert any(a["loss"] != pytest.approx(b["loss"], abs=1e-6) for a, b in zip(one[1:], two[1:]))


def test_lora_and_full_placements(tmp_path, model_folder, corpus_files):
    run(tmp_path / "lora", model_folder, corpus_files, "gspo", "lora")
    counts = json.loads((tmp_path / "lora/trainable.json").read_text())
    assert counts["fft"] == 0 < counts["lora"]
    assert json.loads((tmp_path / "lora/policy/adapter_config.json").read_text())["modules_to_save"] is None
    run(tmp_path / "full", model_folder, corpus_files, "grpo", "full")
    counts = json.loads((tmp_path / "full/trainable.json").read_text())
    assert counts["total"] == counts["fft"] == counts["all"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full/policy")
    base = dict(load.model(model_folder).named_parameters())
    assert all(not torch.equal(p, base[n]) for n, p in model.named_parameters() if "embed" not in n)


@pytest.mark.parametrize("objective", ["sft", "gspo"])
def test_killed_run_goes_on_to_the_same_policy(objective, tmp_path, model_folder, corpus_files, allocated, monkeypatch):
    whole = run(tmp_path / "whole", model_folder, corpus_files, objective, allocation=[allocated])
    measure = validation.NextTokenLoss.__call__
    calls = []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 2:  # at step 4, after the checkpoint of step 2
            raise KeyboardInterrupt
        return measure(self, *args)

    monkeypatch.setattr(validation.NextTokenLoss, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", model_folder, corpus_files, objective, allocation=[allocated])
    assert not (tmp_path / "cut/policy").exists()
    again = run(tmp_path / "cut", model_folder, corpus_files, objective, allocation=[allocated])
    assert len(calls) == 3  # step 2 was not done again
    assert [r["loss"] for r in again] == [r["loss"] for r in whole]
    assert [r["validation_loss"] for r in again] == [r["validation_loss"] for r in whole]
    one, two = adapter(tmp_path / "whole"), adapter(tmp_path / "cut")
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("steps", [4, 5])
def test_run_killed_before_its_policy_is_published(steps, tmp_path, model_folder, corpus_files, monkeypatch):
    """The last step falls on the end of a generation (2 steps) or inside it; either way nothing is trained twice."""
    whole = run(tmp_path / "whole", model_folder, corpus_files, "gspo", "lora", steps=steps)

    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_publish", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", model_folder, corpus_files, "gspo", "lora", steps=steps)
    again = run(tmp_path / "cut", model_folder, corpus_files, "gspo", "lora", steps=steps)
    assert [(r["step"], r["loss"], r["validation_loss"]) for r in again] == [
        (r["step"], r["loss"], r["validation_loss"]) for r in whole
    ]
    one, two = adapter(tmp_path / "whole"), adapter(tmp_path / "cut")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_run_killed_after_its_policy_is_published(tmp_path, model_folder, corpus_files, capsys):
    """Nothing is trained again, unless it would be another run, or not all of it is there."""
    run(tmp_path, model_folder, corpus_files, "sft", "lora")
    capsys.readouterr()
    run(tmp_path, model_folder, corpus_files, "sft", "lora")
    assert capsys.readouterr().out.startswith("all is published already")
    (tmp_path / ".policy.abc.tmp").mkdir()  # as a process leaves it that is killed while it publishes
    run(tmp_path, model_folder, corpus_files, "sft", "lora", seed=1)
    assert "kept step" in capsys.readouterr().out
    assert not (tmp_path / ".policy.abc.tmp").exists()
    (tmp_path / "samples.parquet.manifest.json").unlink()
    run(tmp_path, model_folder, corpus_files, "sft", "lora", seed=1)
    assert "kept step" in capsys.readouterr().out


def test_seeds_make_a_difference_and_nothing_else_does(tmp_path, model_folder, corpus_files):
    one = run(tmp_path / "a", model_folder, corpus_files, "gspo", "lora")
    torch.manual_seed(99)
    assert [r["loss"] for r in run(tmp_path / "b", model_folder, corpus_files, "gspo", "lora")] == [r["loss"] for r in one]
    assert [r["loss"] for r in run(tmp_path / "c", model_folder, corpus_files, "gspo", "lora", seed=1)] != [
        r["loss"] for r in one
    ]


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
    assert "reward=" not in capfd.readouterr().err
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


def test_what_there_is_to_watch(tmp_path, model_folder, corpus_files, allocated, capfd):
    records = run(tmp_path, model_folder, corpus_files, "gspo", allocation=[allocated])
    sampled = [r for r in records if r["reward"] is not None]
    assert [r["step"] for r in sampled] == [1, 3]  # two updates a generation
    for name in ("frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio", "unjudged"):
        assert all(r[name] is not None for r in sampled), name
    for name in ("loss", "kl", "entropy", "clip_ratio/region_mean", "learning_rate_full", "learning_rate_lora", "grad_norm"):
        assert all(r[name] is not None for r in records), name
    assert {r["unjudged"] for r in sampled} == {0}
    assert [r["time_generate_s"] > 0 for r in records] == [True, False, True, False]
    assert all(r["time_update_s"] > 0 and r["time_sync_s"] == 0 for r in records)
    assert sum(r[f"time_{part}_s"] for r in records for part in timing.PARTS) < records[-1]["elapsed_s"]
    assert "time_generate_s=" in capfd.readouterr().err
    # Within a generation the second update's ratios are off one, and only then GSPO is not GRPO.
    for kind in ("token", "sequence"):
        off = [r[f"ratio/{kind}_deviation"] for r in records]
        assert off[0] == off[2] == 0 < min(off[1], off[3])
    kept = samples.read(tmp_path / "samples.parquet")
    assert [row["step"] for row in kept] == [2, 2, 2, 4, 4, 4]
    assert len({row["prompt"] for row in kept if row["step"] == 2}) == 1  # of one group
    assert all(row["completion"] is not None and row["reward"] is not None for row in kept)


@pytest.mark.parametrize("objective", ["sft", "gspo"])
def test_rates_and_memory_of_every_step(objective, tmp_path, model_folder, corpus_files, allocated):
    """The rates are those that the step was made with, not those that the schedule has for the next one."""
    records = run(tmp_path, model_folder, corpus_files, objective, allocation=[allocated], schedule="linear")
    assert [r["learning_rate_full"] for r in records] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert [r["learning_rate_lora"] for r in records] == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    assert [r["learning_rate"] for r in records] == [r["learning_rate_full"] for r in records]
    assert all(0.1 < r["memory_gib"] < 100 for r in records)


def test_sft_keeps_no_samples(tmp_path, model_folder, corpus_files):
    run(tmp_path, model_folder, corpus_files, "sft", "lora", steps=1)
    assert samples.read(tmp_path / "samples.parquet") == []


def test_validation_reward_chooses_the_checkpoint(tmp_path, model_folder, corpus_files):
    """Length alone is rewarded, so a policy that learns to stop early gets a higher reward, whatever its loss."""
    change = {
        "validation": {"every": 2, "rows": 8, "metric": "reward"},
        "steps": 8,
        "learning_rate": {"full": 0.02, "lora": 0.05},
    }
    records = run(tmp_path, model_folder, corpus_files, "gspo", "lora", **change)
    rewards = {r["step"]: r["validation_reward"] for r in records if r["validation_reward"] is not None}
    losses = {r["step"]: r["validation_loss"] for r in records if r["validation_loss"] is not None}
    assert list(rewards) == list(losses) == [2, 4, 6, 8]
    assert len(set(rewards.values())) > 1
    about = json.loads((tmp_path / "policy/manifest.json").read_text())
    selected = about["selected_step"]
    assert selected == max(rewards, key=rewards.get) != min(losses, key=losses.get)
    assert (about["validation_reward"], about["validation_loss"]) == (rewards[selected], losses[selected])
    again = run(tmp_path / "again", model_folder, corpus_files, "gspo", "lora", **change)
    assert [r["validation_reward"] for r in again] == [r["validation_reward"] for r in records]
