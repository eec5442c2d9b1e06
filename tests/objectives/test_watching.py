"""What is said, kept and reported while RL runs."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import rl_runs

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus
from hybrid_lora.objectives import reporting
from hybrid_lora.objectives.watching import Watch

SAMPLES = {"every": 2, "count": 4}


def test_rewards_without_variance_warn_in_plain_words(tmp_path, model_folder, corpus_files, capfd):
    """A random model never hits numbers of nine digits: no group has rewards that differ. The count goes on after a resume."""
    corpus.write(tmp_path / "train.parquet", [row | {"gold": "123456789"} for row in corpus.read(corpus_files[0])])
    watch = Watch(SAMPLES, 3, tmp_path / "samples.json")
    never = {"rewards": {"accuracy": 1.0, "format": 0.0, "length": 0.0}, "updates_per_generation": 1, "steps": 4, "save_every": 2}
    built, _ = rl_runs.build(model_folder, tmp_path / "train.parquet", tmp_path, "lora", callbacks=[watch], **never)
    watch.trainer = built
    built.train()
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: at step 3 the last 3 generations had no group whose rewards differ")
    assert "(mean reward 0.0)" in warnings[0]
    assert [row["step"] for row in watch.rows] == [2] * 4 + [4] * 4
    resumed = Watch(SAMPLES, 3, tmp_path / "samples.json")
    built.state.global_step = 2
    resumed.on_train_begin(built.args, built.state, built.control)
    assert [row["step"] for row in resumed.rows] == [2] * 4 and resumed.flat == 4


def test_a_grader_that_never_judges_warns_too(tmp_path, model_folder, corpus_files, capfd):
    """Tests that are no program are the grader's failure: no completion has a reward."""
    broken = {"source": "code", "gold": None, "tests": {"prompt": "", "test": "def (", "entry_point": "f"}}
    corpus.write(tmp_path / "train.parquet", [row | broken for row in corpus.read(corpus_files[0])])
    watch = Watch(SAMPLES, 2, tmp_path / "samples.json")
    change = {"rewards": {"accuracy": 1.0, "format": 0.0, "length": 0.5}, "updates_per_generation": 1, "sources": ["code"]}
    built, record = rl_runs.build(model_folder, tmp_path / "train.parquet", tmp_path, "lora", callbacks=[watch], **change)
    watch.trainer = built
    built.train()
    assert [(row["unjudged"], row["frac_reward_zero_std"]) for row in record.history()] == [(32, 1.0)] * 4
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: at step")]
    assert len(warnings) == 2
    assert "(no reward at all): the graders could not judge 32 completions of the last one, " in warnings[0]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"step": 1}]', ""])
def test_damaged_samples_do_not_keep_a_training_from_going_on(content, tmp_path, capfd):
    (tmp_path / "samples.json").write_text(content)
    watch = Watch(SAMPLES, 1, tmp_path / "samples.json")
    watch.on_train_begin(None, SimpleNamespace(global_step=4, log_history=[]), None)
    said = capfd.readouterr().err
    assert watch.rows == [] and said.count("\n") == 1 and "earlier samples are lost" in said


def test_rewards_with_variance_do_not_warn(tmp_path, model_folder, corpus_files, capfd):
    watch = Watch(SAMPLES, 1, tmp_path / "samples.json")
    built, _ = rl_runs.build(model_folder, corpus_files[0], tmp_path, "lora", callbacks=[watch])
    watch.trainer = built
    built.train()
    assert "warning: at step" not in capfd.readouterr().err


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setenv(reporting.VARIABLE, json.dumps({"report_to": ["wandb"]}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^logging\.report_to: wandb is not installed here; pip install wandb"):
        reporting.arguments("r")


def test_going_online_without_a_key_is_one_line(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed; it is optional: make test-watching")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what is set for W&B is gone afterwards
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv(reporting.VARIABLE, json.dumps({"report_to": ["wandb"], "wandb_mode": "online"}))
    with pytest.raises(UserError, match=r"^logging\.wandb_mode is online: No API key .* Or use offline$"):
        reporting.arguments("r")


RUN = """
import sys, rl_runs
from pathlib import Path
built, record = rl_runs.build(Path(sys.argv[1]), Path(sys.argv[2]), Path("work"), "lora", steps=2)
built.train()
"""


def reported(name, tmp_path, model_folder, corpus_files):
    """Train two steps in a process of its own, in an empty folder, reporting to `name`."""
    pytest.importorskip(name, reason=f"{name} is not installed; it is optional: make test-watching")
    here = os.path.dirname(rl_runs.__file__)
    here = os.pathsep.join([here, os.path.dirname(here), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": here, reporting.VARIABLE: json.dumps({"report_to": [name]})}
    command = [sys.executable, "-c", RUN, str(model_folder), str(corpus_files[0])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_tensorboard(tmp_path, model_folder, corpus_files):
    reported("tensorboard", tmp_path, model_folder, corpus_files)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "results/logs/tensorboard/r"))
    events.Reload()
    for name in ("loss", "reward", "kl", "time_update_s", "learning_rate_lora", "frac_reward_zero_std"):
        assert events.Scalars(f"train/{name}"), name
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def test_wandb_offline(tmp_path, model_folder, corpus_files):
    reported("wandb", tmp_path, model_folder, corpus_files)
    kept = list((tmp_path / "results/logs/wandb").rglob("*.wandb"))
    assert len(kept) == 1 and kept[0].stat().st_size > 1000
