"""Real TRL training of a tiny model: what moves, what stays, what comes out, and that a killed run goes on."""

import json
import os
import signal
import time

import killing
import pytest
import torch
from peft import PeftModel
from tiny_runs import FFT, OBJECTIVES, adapter, run
from transformers import AutoModelForCausalLM

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import Interrupted
from hybrid_lora.contracts import samples
from hybrid_lora.modeling import load
from hybrid_lora.objectives import held_out, timing
from hybrid_lora.training import train, validation


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


@pytest.mark.parametrize(
    "patched, name", [(validation.NextTokenLoss, "__call__"), (held_out.MeanReward, "_scored")], ids=["loss", "reward"]
)
def test_a_validation_is_given_up_for_a_stop_and_made_later(
    patched, name, tmp_path, model_folder, corpus_files, monkeypatch, capsys
):
    """SIGTERM in each of the two validations, in the middle of what it measures; the state of their step is saved."""
    change = {"validation": {"every": 2, "rows": 8, "metric": "reward"}, "save_every": 100}

    def made(folder):
        return run(folder, model_folder, corpus_files, "gspo", "lora", **change)

    made(tmp_path / "whole")
    measure = getattr(patched, name)

    def stopped(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # the signal ends it
        raise AssertionError("not stopped")

    for step in (2, 4):
        first = iter([measure] * (step == 4))  # that of step 2 is made before that of step 4
        monkeypatch.setattr(patched, name, lambda self, *args, first=first: next(first, stopped)(self, *args))
        with pytest.raises(Interrupted, match=f"stopped after step {step} by SIGTERM; the state is saved"):
            made(tmp_path / "cut")
        assert f"validation at step {step} given up" in capsys.readouterr().out
        assert checkpoints.steps(tmp_path / "cut/state")[-1] == step
    monkeypatch.setattr(patched, name, stopped)
    with pytest.raises(Interrupted, match="stopped before it finished a step"):  # in the validation that it was to make first
        made(tmp_path / "cut")
    monkeypatch.setattr(patched, name, measure)
    made(tmp_path / "cut")
    assert killing.differences(tmp_path / "whole", tmp_path / "cut") == []


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
