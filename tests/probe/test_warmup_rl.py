"""RL warm-up of the probe with the real TRL: what moves, what is saved, that a killed one goes on, how the model is left."""

from pathlib import Path

import pytest
import torch
from objective_settings import GRADING, RL
from safetensors.torch import load_file

from hybrid_lora.common import code
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import corpus, history
from hybrid_lora.modeling import load, svd_lora
from hybrid_lora.objectives import rl
from hybrid_lora.probe import warmup_rl

INIT = {"method": "lora", "e": 1.0, "alpha": 1.0}
OPTIONS = {
    "steps": 4,
    "learning_rate": 1e-2,
    "schedule": "constant",
    "weight_decay": 0.0,
    "gradient_checkpointing": False,
    "save_every": 1,  # rounded up to 2, a window
    "seed": 0,
}
OBJECTIVE = RL | {
    "algorithm": "gspo",
    # the warm-up's own take their place
    "steps": 99,
    "learning_rate": {"full": 9.0, "lora": 9.0},
    "schedule": "linear",
    "weight_decay": 9.0,
    "gradient_checkpointing": True,
    "save_every": 99,
}


def attached(model_folder, init=INIT):
    model = load.model(model_folder)
    return model, svd_lora.attach(model, 4, init, 0)


def run(work, model_folder, corpus_files, options=(), model=None, branches=None, **objective):
    """(records, branches) of a warm-up."""
    if model is None:
        model, branches = attached(model_folder)
    rows, words = corpus.read(corpus_files[0]), load.tokenizer(model_folder)
    settings = OPTIONS | dict(options)
    return warmup_rl.train(model, branches, words, rows, settings, OBJECTIVE | objective, GRADING, work, 1), branches


def losses(records):
    return [r.get("loss") for r in records]


def attributes(model):
    """What hangs on the model, its modules and its configuration, hooks included, parameters not."""
    owners = [*model.modules(), model.config, model.generation_config]
    return [
        {k: str(v) if isinstance(v, dict | bool | int) else id(v) for k, v in vars(o).items() if k != "_parameters"}
        for o in owners
    ]


@pytest.mark.parametrize("algorithm", ["grpo", "gspo"])
def test_every_branch_moves_and_the_base_does_not(algorithm, tmp_path, model_folder, corpus_files):
    model, branches = attached(model_folder)
    start = svd_lora.state(branches)
    records, _ = run(tmp_path, model_folder, corpus_files, model=model, branches=branches, algorithm=algorithm)
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4]
    assert {r["learning_rate"] for r in records if "loss" in r} == {1e-2}
    assert records[0]["kl"] == 0.0  # B = 0: the probe is the original model
    assert records[3]["kl"] > 0
    assert max(r.get("reward", 0) for r in records) > 0
    end = svd_lora.state(branches)
    assert [name for name in start if torch.equal(start[name], end[name])] == []  # e and alpha among them
    base = load.model(model_folder).state_dict()
    for name, value in model.state_dict().items():
        if name.replace(".base.", ".") in base:
            assert torch.equal(value, base[name.replace(".base.", ".")])


def test_reference_is_the_original_model(tmp_path, model_folder, corpus_files):
    """Branches that start with an effect: the first step's KL is against the model without them, and no second one."""
    model, branches = attached(model_folder, {"method": "adalora", "e": 30.0, "alpha": 1.0})
    model.config._name_or_path = str(tmp_path / "gone")  # where TRL would load a reference model from
    records, _ = run(tmp_path, model_folder, corpus_files, model=model, branches=branches)
    assert records[0]["kl"] > 1e-4


def test_without_kl(tmp_path, model_folder, corpus_files):
    records, _ = run(tmp_path, model_folder, corpus_files, {"steps": 2}, kl=0.0)
    assert all("kl" not in r for r in records)


def test_no_steps(tmp_path, model_folder, corpus_files):
    records, branches = run(tmp_path, model_folder, corpus_files, {"steps": 0})
    start = svd_lora.state(attached(model_folder)[1])
    assert records == []
    assert all(torch.equal(value, start[name]) for name, value in svd_lora.state(branches).items())


def test_schedule_and_objective(tmp_path, model_folder, corpus_files):
    records, branches = run(tmp_path / "a", model_folder, corpus_files, {"schedule": "linear"}, algorithm="grpo")
    assert [r["learning_rate"] for r in records if "loss" in r] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    other, moved = run(tmp_path / "b", model_folder, corpus_files, {"schedule": "linear", "seed": 1}, algorithm="grpo")
    assert losses(other) != losses(records)
    one, two = svd_lora.state(branches), svd_lora.state(moved)
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("steps", [4, 5])
def test_killed_warm_up_goes_on_to_the_same_bits(steps, tmp_path, model_folder, corpus_files, monkeypatch):
    options = {"steps": steps}
    whole, one = run(tmp_path / "whole", model_folder, corpus_files, options)
    step, calls = warmup_rl.BranchTrainer.training_step, []

    def dies(self, *args, **kwargs):
        calls.append(self.state.global_step)
        if self.state.global_step == 3:  # after the checkpoint of step 2, inside a window
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(warmup_rl.BranchTrainer, "training_step", dies)
        model, branches = attached(model_folder)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", model_folder, corpus_files, options, model=model, branches=branches)
        assert "forward" not in vars(model)
    assert [p.name for p in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-2"]
    again, two = run(tmp_path / "cut", model_folder, corpus_files, options)
    assert losses(again) == losses(whole)
    assert [r.get("reward") for r in again] == [r.get("reward") for r in whole]
    one, two = svd_lora.state(one), svd_lora.state(two)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    third, three = run(tmp_path / "cut", model_folder, corpus_files, options)  # killed after the last step, before publishing
    assert losses(third) == losses(whole)
    three = svd_lora.state(three)
    assert [name for name in one if not torch.equal(one[name], three[name])] == []


def test_checkpoints_hold_the_branches_alone(tmp_path, model_folder, corpus_files):
    _, branches = run(tmp_path, model_folder, corpus_files)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    saved = load_file(tmp_path / "checkpoint-4" / warmup_rl.CHECKPOINT)
    final = svd_lora.state(branches)
    assert saved.keys() == final.keys()
    assert all(torch.equal(saved[name], final[name]) for name in final)
    weights = [p for p in tmp_path.rglob("*") if p.suffix in (".safetensors", ".bin") or p.name.startswith("model")]
    assert {p.name for p in weights} == {warmup_rl.CHECKPOINT}
    count = sum(value.numel() for value in final.values())
    optimizer = torch.load(tmp_path / "checkpoint-4/optimizer.pt", weights_only=True)["state"].values()
    assert sum(state["exp_avg"].numel() for state in optimizer) == count


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_is_left_as_it_was(precision, tmp_path, model_folder, corpus_files):
    model, branches = attached(model_folder)
    model.eval()
    load.set_checkpointing(model, True)
    before = attributes(model)
    options = {"gradient_checkpointing": True, "steps": 2}
    run(tmp_path, model_folder, corpus_files, options, model=model, branches=branches, precision=precision)
    assert attributes(model) == before
    assert all(branch.active for branch in branches.values())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_gradient_checkpointing_computes_the_same_twice(tmp_path, model_folder, corpus_files):
    def counted(on):
        model, branches = attached(model_folder)
        load.set_checkpointing(model, on)  # as the warm-up has it, whatever its objective
        calls, layer = [], model.model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append((torch.is_grad_enabled(), "forward" in vars(layer))))
        options = {"gradient_checkpointing": on}
        records, _ = run(tmp_path / str(on), model_folder, corpus_files, options, model=model, branches=branches)
        assert not any(ours for _, ours in calls)  # it would also slow down sampling
        return records, svd_lora.state(branches), sum(learning for learning, _ in calls)

    plain, one, calls = counted(False)
    saving, two, more = counted(True)
    assert losses(saving) == pytest.approx(losses(plain), abs=1e-5)
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert (calls, more) == (16, 32)  # 4 steps of 16 completions, 4 at a time


def test_merged_weights_make_the_same_model(model_folder):
    """What vLLM would be given, put into a plain model."""
    model, branches = attached(model_folder, {"method": "adalora", "e": 30.0, "alpha": 2.0})
    plain = load.model(model_folder)
    ids = torch.arange(40).reshape(2, 20)
    assert not torch.allclose(plain(ids).logits, model(ids).logits, atol=1e-3)
    given = dict(warmup_rl.merged(model, branches))
    assert given.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(given, strict=False)
    assert torch.allclose(plain(ids).logits, model(ids).logits, atol=1e-5)


def test_corpus_that_cannot_be_verified(tmp_path, model_folder, corpus_files):
    with pytest.raises(UserError, match=r"^corpus of the probe: no row of sources science can be verified$"):
        run(tmp_path, model_folder, corpus_files, sources=["science"])
    assert not list(Path(tmp_path).iterdir())


def test_diverged_warm_up_stops(tmp_path, model_folder, corpus_files):
    model, branches = attached(model_folder)
    with pytest.raises(UserError, match=r"^warm-up: loss is nan at step \d"):
        run(tmp_path, model_folder, corpus_files, {"learning_rate": 1e30}, model=model, branches=branches, max_grad_norm=0.0)
    assert all(branch.active for branch in branches.values())


@pytest.mark.parametrize(("every", "expected"), [(1, 6), (6, 6), (7, 12)])
def test_saves_fall_on_windows(every, expected):
    objective = OBJECTIVE | {"updates_per_generation": 2, "iterations": 3}
    assert rl.window(objective) == 6
    assert warmup_rl._settings(OPTIONS | {"save_every": every}, objective)["save_every"] == expected


def test_the_command_leaves_a_warmup_like_any_other(tmp_path, model_folder, corpus_files):
    from hybrid_lora.probe import warmup

    options = OPTIONS | {"objective": "rl", "dtype": "float32", "batch_size": 4, "device_batch_size": 4, "max_length": 64}
    settings = {"rank": 4, "init": INIT, "warmup": options, "rl": OBJECTIVE, "grading": GRADING}
    warmup_rl.run(settings, model_folder, corpus_files[0], tmp_path / "warmup", tmp_path / "state")
    about = read_json(tmp_path / "warmup/manifest.json")
    assert about["stage"] == "probe.warmup_rl"
    assert "hybrid_lora/objectives/rl.py" in about["code"]
    assert [row["step"] for row in history.read(tmp_path / "warmup/history.parquet").to_pylist()][:4] == [1, 2, 3, 4]
    _, branches = warmup.restore(model_folder, tmp_path / "warmup", "float32")
    assert all(branch.B.any() for branch in branches.values())
    assert not (tmp_path / "state").exists()


def test_a_change_of_graders_is_none_of_the_supervised_warmup():
    names = {Path(path).parent.name for path in code.sources("hybrid_lora.probe.warmup")}
    assert not names & {"grading", "objectives"}
    assert {"grading", "objectives"} <= {Path(path).parent.name for path in code.sources("hybrid_lora.probe.warmup_rl")}
