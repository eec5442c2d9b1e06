"""How many processes a training runs on: what reaches the job, what it asks of Slurm; no setting of a job depends on it."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import compute, layers, load
from hybrid_lora.config.plan import Plan
from hybrid_lora.objectives import rl
from hybrid_lora.training import launch

REPO = Path(__file__).resolve().parents[2]


def plan(**changed):
    files = ["config/config.yaml", "config/demo.yaml"]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    small = {name: {"device_batch_size": 2} for name in values["objectives"]}
    values = layers.merge(layers.merge(values, {"objectives": small}), changed)
    return Plan(load(values, files, REPO), REPO)


@pytest.mark.parametrize(
    "asked, processes, nodes",
    [({}, 1, 1), ({"gpus": 4}, 1, 1), ({"gpus": 4, "processes": 2, "nodes": 2}, 2, 2), ({"processes": 2}, 2, 1)],
)
def test_processes_are_one_unless_told(asked, processes, nodes):
    found = plan(compute=asked)
    assert found.launch == {"processes": processes, "nodes": nodes, "strategy": "ddp", "threads": 2 * processes}
    each = min(asked.get("gpus", 0), processes)
    assert compute.gpus(found.values) == (each if nodes == 1 else 0)
    assert compute.resources(found.values).get("gres") == (f"gpu:{each}" if nodes > 1 and each else None)


def test_no_setting_of_a_training_depends_on_it():
    one, many = plan(), plan(compute={"gpus": 2, "processes": 2, "nodes": 2, "strategy": "fsdp2"})
    trained = [name for name, run in one.runs.items() if run.objective]
    assert [one.training(name) for name in trained] == [many.training(name) for name in trained]


def test_resources_beyond_a_node_only_where_there_are_any():
    assert compute.resources(plan().values) == {}
    assert compute.resources(plan(compute={"nodes": 2}).values) == {
        "nodes": 2,
        "tasks": 2,
        "tasks_per_gpu": 0,
        "mpi": "srun",
    }


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"gpus": 1, "processes": 2}, r"compute\.processes: is 2, must be at most compute\.gpus, 1: one GPU each$"),
        ({"processes": 0}, r"compute\.processes: is 0, must be at least 1$"),
        ({"nodes": 0}, r"compute\.nodes: is 0, must be at least 1$"),
        ({"strategy": "fsdp"}, r"compute\.strategy: 'fsdp' is not known; allowed: ddp, fsdp2, zero3 "),
        (
            {"gpus": 2, "strategy": "fsdp2"},
            r"compute\.strategy: is fsdp2, which divides a model among .* there is one; allowed: ddp$",
        ),
        (
            {"processes": 2, "strategy": "fsdp2"},
            r"compute\.strategy: is fsdp2, .* on GPUs alone, and compute\.gpus is 0; allowed: ddp$",
        ),
        (
            {"processes": 7},
            r"prompts_per_generation: .* must be a multiple of updates_per_generation \* device_batch_size \* 7 processes",
        ),
    ],
)
def test_mistakes_are_one_line(asked, message):
    with pytest.raises(UserError, match=message) as error:
        plan(compute=asked)
    assert "\n" not in str(error.value)


def test_zero3_without_deepspeed(monkeypatch):
    monkeypatch.setattr(compute.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"compute\.strategy: is zero3, and deepspeed is not installed here; pip install deepspeed"
    ):
        plan(compute={"gpus": 2, "processes": 2, "strategy": "zero3"})


def test_colocated_engines_divide_the_processes():
    change = {"rollouts": "vllm", "vllm": {"tensor_parallel": 4}}
    with pytest.raises(UserError, match=r"vllm\.tensor_parallel: is 4, must divide the number of processes, 2$"):
        plan(compute={"processes": 2}, objectives={"gspo": change, "grpo": change})
    plan(compute={"processes": 4}, objectives={"gspo": change, "grpo": change})
    with pytest.raises(UserError, match=r"vllm\.tensor_parallel: is 4, must divide the number of processes, 1$"):
        plan(objectives={"gspo": change})


def test_a_warm_up_by_reinforcement_learning_is_one_process():
    """Its objective is looked at whether or not a run is trained by it."""
    warmed = {"probes": {"default": {"warmup": {"objective": "grpo"}}}}
    change = {"rollouts": "vllm", "vllm": {"tensor_parallel": 4}}
    with pytest.raises(UserError, match=r"grpo\.vllm\.tensor_parallel: is 4, must divide .* processes of a warm-up, 1$"):
        plan(compute={"processes": 4}, objectives={"grpo": change}, **warmed)
    with pytest.raises(UserError, match=r"grpo\.vllm\.mode: is server, .* and compute\.gpus is 0; allowed: colocate$"):
        plan(objectives={"grpo": {"rollouts": "vllm", "vllm": {"mode": "server"}}}, **warmed)
    plan(compute={"processes": 4}, objectives={"grpo": {"rollouts": "vllm"}}, **warmed)


@pytest.mark.parametrize(
    "gpus, engine, message",
    [
        (0, {}, r"objectives\.gspo\.vllm\.mode: is server, .* and compute\.gpus is 0; allowed: colocate$"),
        (
            1,
            {"server": "127.0.0.1:8000"},
            r"objectives\.gspo\.vllm\.server: is '127\.0\.0\.1:8000', must begin with http:// or https://$",
        ),
    ],
)
def test_a_server_that_cannot_be_reached(gpus, engine, message):
    with pytest.raises(UserError, match=message):
        plan(compute={"gpus": gpus}, objectives={"gspo": {"rollouts": "vllm", "vllm": {"mode": "server", **engine}}})


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_both_ways_of_vllm_are_reached_by_setting(mode):
    change = {"rollouts": "vllm", "vllm": {"mode": mode, "server": "http://127.0.0.1:8001", "group_port": 51217}}
    found = plan(compute={"gpus": 1}, objectives={"gspo": change})
    run = next(name for name, run in found.runs.items() if run.objective == "gspo")
    engine = rl._engine(found.training(run)["objective"]["vllm"])
    assert (engine["use_vllm"], engine["vllm_mode"]) == (True, mode)
    assert engine["vllm_importance_sampling_correction"] is True
    without = plan(compute={"gpus": 1}, objectives={"gspo": change | {"vllm": {"importance_correction": "none"}}})
    assert rl._engine(without.training(run)["objective"]["vllm"])["vllm_importance_sampling_correction"] is False
    assert (engine["vllm_server_base_url"], engine["vllm_group_port"]) == ("http://127.0.0.1:8001", 51217)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero3"])
def test_accelerate_understands_what_it_is_told(strategy, monkeypatch, tmp_path):
    """On one node and on the second of two; the configuration files hold nothing that accelerate does not know, and the user's
    own defaults are not read."""
    mine = tmp_path / "accelerate/default_config.yaml"
    mine.parent.mkdir()
    mine.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: '0'\nnum_processes: 1\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(launch, "_first_node", lambda: "node1")
    monkeypatch.setenv("SLURM_JOB_ID", "10007")
    monkeypatch.setenv("SLURM_NODEID", "1")
    one = launch.arguments({"processes": 2, "nodes": 1, "strategy": strategy})
    two = launch.arguments({"processes": 2, "nodes": 2, "strategy": strategy})
    code = """
import sys
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import launch
given = launch_command_parser().parse_args([*sys.argv[1:], "-m", "hybrid_lora.training", "train"])
found, *_ = _validate_launch_command(given)
print(found.num_processes, found.num_machines, found.machine_rank, found.main_process_ip, found.main_process_port)
assert found.gpu_ids == "all"
print(found.multi_gpu, found.use_fsdp, found.use_deepspeed, found.fsdp_version, found.zero_stage)
if not found.use_deepspeed:
    environment = launch.prepare_multi_gpu_env(found)
    print(environment.get("FSDP_VERSION"), environment.get("FSDP_STATE_DICT_TYPE"), found.nproc_per_node)
"""
    kind = {"ddp": "True False False", "fsdp2": "False True False 2", "zero3": "False False True"}[strategy]
    for given, numbers in ((one, "2 1 (0|None) None 0"), (two, "4 2 1 node1 20007")):
        done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert re.fullmatch(numbers, lines[0]), done.stderr
        assert lines[1].startswith(kind)
        if strategy == "zero3":
            assert lines[1].endswith(" 3")
        elif strategy == "fsdp2":
            assert lines[2] == "2 SHARDED_STATE_DICT 2"


def test_a_strategy_without_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "CONFIGURATIONS", tmp_path)
    with pytest.raises(UserError, match=r"fsdp2\.yaml: no such file; compute\.strategy is fsdp2, which is described there$"):
        launch.arguments({"processes": 2, "nodes": 1, "strategy": "fsdp2"})


def test_one_process_is_left_alone(monkeypatch):
    monkeypatch.delenv(launch.VARIABLE, raising=False)
    assert launch.several(["train"]) is None
    monkeypatch.setenv(launch.VARIABLE, '{"processes": 2}')
    monkeypatch.setenv("RANK", "0")  # one of several already
    assert launch.several(["train"]) is None


def test_several_nodes_need_slurm(monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, '{"nodes": 2}')
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"^compute\.nodes is 2, which needs a Slurm job; use `--profile slurm`, or nodes: 1$"):
        launch.several(["train"])


def test_srun_starts_the_command_once_a_node(monkeypatch, tmp_path):
    """The program in place of srun prints what it was given, as one node would be told."""
    script = '#!/bin/sh\necho "$HYBRID_LORA_NODE $*" > "$OUT"; exit 7\n'
    (tmp_path / "srun").write_text(script)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("OUT", str(tmp_path / "told"))
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv(launch.VARIABLE, '{"nodes": 2, "processes": 4, "threads": 8}')
    assert launch.several(["train", "--settings", "{}"]) == 7
    words = (tmp_path / "told").read_text().split()
    assert words[:4] == ["1", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert words[-7:] == ["-m", "hybrid_lora.training", "train", "--settings", "{}", "--workers", "2"]


class Asked(dict):
    """Resources of a job as Snakemake's executors read them: by key and by attribute."""

    __getattr__ = dict.__getitem__


def test_slurm_is_asked_for_two_nodes_with_a_launcher_each():
    """Two GPUs on each: the plugin must add no tasks by GPU, and start the job outside of a step."""
    values = plan(compute={"gpus": 4, "processes": 2, "nodes": 2}).values
    resources = Asked(mem_mb=32000, runtime=10, gpu=compute.gpus(values), **compute.resources(values))
    job = SimpleNamespace(resources=resources, threads=4)
    given = {"run_uuid": "u", "slurm_logfile": "log", "comment_str": "c", "account": "", "partition": "", "workdir": "."}
    words = get_submit_command(job, given).split()
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=4"} <= set(words)
    assert not [word for word in words if word.startswith("--ntasks-per")]
    assert set_gres_string(job).split() == ["--gres=gpu:2"]  # on each node, where --gpus=4 may give 3 and 1
