"""kill -9 of a real process in the middle of a warm-up and of a chunk: started again, the same bytes."""

import json
import signal
import subprocess
import sys
import time

import pytest
from test_sensitivity import SENSITIVITY, WARMUP

from hybrid_lora.contracts import weights
from hybrid_lora.probe.__main__ import main as probe

LONG = WARMUP | {"warmup": WARMUP["warmup"] | {"steps": 30, "save_every": 1}}


def killed(arguments, state, pattern):
    """Run the command as a process of its own; kill it as soon as its state holds something that matches."""
    process = subprocess.Popen([sys.executable, "-m", "hybrid_lora.probe", *arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(state.glob(pattern)):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def warm(model_folder, corpus_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["warmup", "--model", model_folder, "--train", corpus_files[0], "--settings", json.dumps(LONG)]
    assert probe([*map(str, arguments), "--out", str(folder / "warmup"), "--state", str(folder / "state")]) == 0
    return folder / "warmup", arguments


def test_warmup(warm, tmp_path, capfd):
    whole, arguments = warm
    arguments = [*map(str, arguments), "--out", str(tmp_path / "warmup"), "--state", str(tmp_path / "state")]
    killed(arguments, tmp_path / "state", "checkpoint-*")
    assert not (tmp_path / "warmup").exists()
    assert probe(arguments) == 0
    assert "resuming after step" in capfd.readouterr().out
    assert (tmp_path / "warmup/probe.safetensors").read_bytes() == (whole / "probe.safetensors").read_bytes()
    assert weights.sha256(tmp_path / "warmup") == weights.sha256(whole)


def test_chunk(warm, model_folder, corpus_files, tmp_path, capfd):
    settings = json.dumps(SENSITIVITY | {"batches_per_chunk": 8})
    arguments = ["sensitivity", "--model", model_folder, "--warmup", warm[0], "--val", corpus_files[1], "--chunk", 0]
    arguments = [*map(str, arguments), "--settings", settings]
    assert probe([*arguments, "--out", str(tmp_path / "whole"), "--state", str(tmp_path / "a")]) == 0
    arguments += ["--out", str(tmp_path / "again"), "--state", str(tmp_path / "b")]
    killed(arguments, tmp_path / "b", "batch-*.parquet")
    assert not (tmp_path / "again").exists()
    assert probe(arguments) == 0
    assert "of 8 batches were finished before" in capfd.readouterr().out
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
