"""Training on two processes, started by `accelerate launch`, equals training on one with the same global batch."""

import os
import re
import signal
from types import SimpleNamespace

import pytest
from killing import differences
from several import (
    FSDP2,
    OF_A_PASS,
    SHOWN,
    arguments,
    as_a_rule,
    changes,
    compare,
    compare_whole_models,
    finished,
    start,
    wait,
    workers,
)

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import resuming, trainer
from hybrid_lora.training import launch

LORA = pytest.param("gspo", "lora", marks=pytest.mark.matrix)
MORE = pytest.param("grpo", "lora", marks=pytest.mark.matrix)


def test_two_processes_equal_one(pair):
    """Here a forward pass of all processes is an update, so that all of the log is comparable."""
    compare(*pair("grpo", "criterion", (16, 8)), [*SHOWN, *OF_A_PASS])


@pytest.mark.parametrize("objective, placement", [("gspo", "criterion"), LORA, MORE])
def test_two_processes_equal_one_with_accumulated_gradients(objective, placement, pair):
    compare(*pair(objective, placement))


@pytest.mark.matrix
def test_supervised_fine_tuning_on_two_processes_equals_one(pair):
    compare(*pair("sft", "criterion", (2, 2)))


def test_the_first_process_alone_writes_and_prints(pair):
    one, two = pair("gspo", "criterion")
    files = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file() and p.name != "log") for f in (one, two)]
    assert files[0] == files[1]
    log = (two / "log").read_text()
    for line, times in (("training r 6/6 (100 %)", 1), (" at step ", 2), ("kept step ", 1), (" parameters in full + ", 1)):
        assert log.count(line) == times, log


def test_a_killed_process_ends_all_and_the_run_goes_on_to_the_same_end(pair, materials, tmp_path):
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    process = start(command, tmp_path / "log-1")
    wait(process, tmp_path / "log-1", 3)
    both = workers(process)
    both[1].kill()
    assert process.wait(120) != 0
    assert not any(each.is_running() for each in both)
    log = finished(command, tmp_path / "log-2")
    resumed = int(re.search(r"resuming after step (\d+)", log)[1])
    assert resumed >= 2
    assert differences(pair("gspo", "criterion")[1], tmp_path) == []


def test_all_processes_save_and_stop_together_at_sigterm(sampled, materials, tmp_path):
    """What the command ends with is what its processes say, without the launcher's traceback."""
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    process = as_a_rule(command, tmp_path / "log-1")
    wait(process, tmp_path / "log-1", 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM
    log = (tmp_path / "log-1").read_text()
    assert "Traceback" not in log
    start, end = [line for line in log.splitlines() if line.startswith("hybrid_lora: ")]
    assert start.startswith("hybrid_lora: accelerate launch --config_file ") and "--num_processes 2" in start
    step = int(re.fullmatch(r"hybrid_lora: training r: stopped after step (\d) by SIGTERM; the state is saved, .*", end)[1])
    assert checkpoints.steps(tmp_path / "state")[-1] == step
    assert as_a_rule(command, tmp_path / "log-2").wait(120) == 0
    assert f"resuming after step {step}" in (tmp_path / "log-2").read_text()
    assert differences(sampled, tmp_path) == []


@pytest.mark.matrix
def test_sharded_weights_train_and_resume_as_copies_do(sampled, materials, tmp_path):
    """FSDP2, killed on its way; sampled by transformers, so that its way of generating is seen, too."""
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    process = start(command, tmp_path / "log-1", 2, *FSDP2, REPLAY_NOTHING="1")
    wait(process, tmp_path / "log-1", 3)
    workers(process)[1].kill()
    assert process.wait(120) != 0
    (shards,) = (tmp_path / "state").glob("checkpoint-2/pytorch_model_fsdp_0")
    assert len(list(shards.glob("*.distcp"))) == 2
    log = finished(command, tmp_path / "log-2", 2, *FSDP2, REPLAY_NOTHING="1")
    assert "resuming after step " in log and ", 0 weights in parts" not in log
    compare(sampled, tmp_path)


@pytest.mark.matrix
def test_full_fine_tuning_in_parts(materials, tmp_path):
    """Every weight is trained and divided, the reference model is, too; out comes the whole model."""
    compare_whole_models(materials, tmp_path, FSDP2, {})


@pytest.mark.matrix
def test_a_sharded_run_killed_before_it_is_published(materials, tmp_path):
    command = arguments(materials, tmp_path, "sft", **changes("sft", 2))
    assert start(command, tmp_path / "log-1", 2, *FSDP2, REPLAY_UNPUBLISHED="1").wait(200) != 0
    assert not (tmp_path / "made").exists()
    assert "resuming after step 6" in finished(command, tmp_path / "log-2", 2, *FSDP2)


@pytest.mark.matrix
def test_two_nodes_are_two_processes(sampled, materials, tmp_path):
    """What srun starts on each node, here both on this machine; a program in place of scontrol names it."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\ntest "$*" = "show hostnames node[1-2]" && echo 127.0.0.1 && echo other\n')
    (tmp_path / "scontrol").chmod(0o755)
    told = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "node[1-2]",
        launch.NODE: "1",
    }
    told |= {"GLOO_SOCKET_IFNAME": "lo", "SLURM_JOB_END_TIME": "99999999999"}
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    nodes = [as_a_rule(command, tmp_path / f"log-{node}", 2, **told, SLURM_NODEID=str(node)) for node in (0, 1)]
    assert [node.wait(200) for node in nodes] == [0, 0], (tmp_path / "log-0").read_text()
    assert "--machine_rank 1 --main_process_ip 127.0.0.1 --main_process_port 20077" in (tmp_path / "log-1").read_text()
    (tmp_path / "scontrol").unlink()
    assert differences(sampled, tmp_path) == []


def test_completions_of_two_processes_are_of_no_use_to_one(tmp_path):
    (tmp_path / "window-0.pt").touch(), (tmp_path / "window-1.pt").touch()
    assert resuming._of_other_processes(tmp_path, 1, "ddp") == "saved by 2 processes, now there are 1"
    assert resuming._of_other_processes(tmp_path, 2, "ddp") is None


@pytest.mark.parametrize("now", ["ddp", "fsdp2", "zero3"])
@pytest.mark.parametrize("saved", ["ddp", "fsdp2", "zero3"])
def test_a_good_checkpoint_of_another_strategy_is_not_thrown_away(saved, now, tmp_path):
    """A training that started anew would remove it; one line says what goes on with it."""
    parts = {"ddp": "optimizer.pt", "fsdp2": "pytorch_model_fsdp_0/__{}_0.distcp", "zero3": "global_step4/{}_optim_states.pt"}
    with checkpoints.saving(tmp_path, "checkpoint-4") as folder:
        for rank in (0, 1):
            file = folder / parts[saved].format(rank)
            file.parent.mkdir(exist_ok=True)
            file.write_text("x")
    args = SimpleNamespace(output_dir=str(tmp_path), world_size=2)
    found = SimpleNamespace(args=args, is_deepspeed_enabled=now == "zero3", is_fsdp_enabled=now == "fsdp2")
    if saved == now:
        assert resuming._found(found, "training", lambda folder: None).name == "checkpoint-4"
        return
    with pytest.raises(UserError, match=f"checkpoint-4: saved with compute.strategy {saved}, now it is {now}; ") as error:
        resuming._found(found, "training", lambda folder: None)
    assert "\n" not in str(error.value) and checkpoints.steps(tmp_path) == [4]


@pytest.mark.matrix
def test_nan_on_one_process_stops_all(materials, tmp_path):
    command = arguments(materials, tmp_path, "gspo", **changes("gspo", 4))
    process = start(command, tmp_path / "log", REPLAY_NAN="1 4")  # in process 1 at step 4
    assert process.wait(120) != 0
    log = (tmp_path / "log").read_text()
    assert "hybrid_lora: error: training r: loss is nan at step 4; " in log
    assert f"the last good state is kept in {tmp_path}/state/checkpoint-2" in log
    assert checkpoints.problem(tmp_path / "state/checkpoint-2") is None


def test_a_batch_that_cannot_be_shared_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert trainer.share(12, 2, "batch_size", "device_batch_size") == 4
    with pytest.raises(UserError, match=r"batch_size is 8, must be a multiple of device_batch_size \* 3 processes, 6$"):
        trainer.share(8, 2, "batch_size", "device_batch_size")
