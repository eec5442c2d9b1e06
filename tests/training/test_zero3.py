"""Training with DeepSpeed's ZeRO-3 on two processes of a CPU equals training with copies (`make setup-deepspeed`)."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from several import ZERO3, arguments, changes, compare, compare_whole_models, finished, start, wait, workers

pytestmark = pytest.mark.matrix
HERE = Path(__file__).parent
DEEPSPEED = HERE.parents[1] / ".deepspeed"


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Variables of a process that uses DeepSpeed on the CPU; it compiles an operation the first time."""
    if not (DEEPSPEED / "deepspeed").is_dir():
        pytest.skip("DeepSpeed is not in .deepspeed: make setup-deepspeed")
    if not shutil.which("c++"):
        pytest.skip("DeepSpeed compiles an operation for the CPU, and there is no c++")
    return {
        "ACCELERATE_USE_CPU": "false",  # with it accelerate makes copies without a word
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "PATH": f"{DEEPSPEED / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{HERE.parents[1] / 'workflow'}:{HERE.parent}:{HERE}:{DEEPSPEED}",
    }


@pytest.mark.parametrize("objective, passes", [("gspo", (4, 4)), ("sft", (2, 2))])
def test_parts_equal_copies(objective, passes, pair, materials, environment, tmp_path):
    command = arguments(materials, tmp_path, objective, **changes(objective, passes[1]))
    log = finished(command, tmp_path / "log", 2, *ZERO3, **environment)
    assert ", 0 weights in parts" not in log
    compare(pair(objective, "criterion", passes)[0], tmp_path)


def test_a_killed_run_goes_on_to_the_same_end(sampled, materials, environment, tmp_path):
    """Sampled by transformers, so that its way of generating is seen, too."""
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    process = start(command, tmp_path / "log-1", 2, *ZERO3, REPLAY_NOTHING="1", **environment)
    wait(process, tmp_path / "log-1", 3)
    workers(process)[1].kill()
    assert process.wait(120) != 0
    (parts,) = (tmp_path / "state").glob("checkpoint-2/global_step*")
    assert len(list(parts.glob("*_optim_states.pt"))) == 2
    log = finished(command, tmp_path / "log-2", 2, *ZERO3, REPLAY_NOTHING="1", **environment)
    assert int(re.search(r"resuming after step (\d+)", log)[1]) >= 2
    compare(sampled, tmp_path)


def test_a_run_killed_before_it_is_published(materials, environment, tmp_path):
    """As many processes go on from its last checkpoint; another number cannot put the parts together and says so."""
    two, one = (arguments(materials, tmp_path / name, "sft", **changes("sft", 2)) for name in ("two", "one"))
    assert start(two, tmp_path / "log", 2, *ZERO3, REPLAY_UNPUBLISHED="1", **environment).wait(200) != 0
    assert not (tmp_path / "two/made").exists()
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    assert "resuming after step 6" in finished(two, tmp_path / "log-two", 2, *ZERO3, **environment)
    assert start(one, tmp_path / "log-one", 1).wait(200) == 2
    log = (tmp_path / "log-one").read_text()
    assert "checkpoint-6: saved with compute.strategy zero3, now it is ddp; with compute.* as it was the training goes on" in log
    assert "resuming" not in log and (tmp_path / "one/state/checkpoint-6").is_dir()


def test_full_fine_tuning_in_parts(materials, environment, tmp_path):
    """Every weight is trained and divided; out comes the whole model."""
    compare_whole_models(materials, tmp_path, ZERO3, environment)


def test_weights_that_deepspeed_rounds_are_published_as_they_are(materials, environment, tmp_path):
    """With bf16 it computes with rounded copies; what the optimizer has learned is finer."""
    bf16 = {"precision": "bf16", "dtype": "bfloat16"}
    finished(arguments(materials, tmp_path, "gspo", **changes("gspo", 4), **bf16), tmp_path / "log", 2, *ZERO3, **environment)
    weights = load_file(tmp_path / "made/adapter_model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all((weight != weight.bfloat16()).any() for weight in weights)
