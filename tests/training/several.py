"""Trainings on several processes, started by `accelerate launch` or as a rule does, and what they are compared by."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from hybrid_lora.training import launch

HERE = Path(__file__).parent
RATES = {"learning_rate": {"full": 1e-3, "lora": 1e-3}, "schedule": "constant", "warmup_steps": 0}
SFT = RATES | {"steps": 6, "save_every": 2}
REPLAYED = SFT | {"rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0}, "max_completion_tokens": 16}
SHOWN = ("loss", "reward", "grad_norm", "validation_loss", "ratio/token_deviation", "completions/mean_length")
FSDP2, ZERO3 = (("--config_file", str(launch.CONFIGURATIONS / f"{name}.yaml")) for name in ("fsdp2", "zero3"))
# TRL's log averages these over the tokens of one pass of all processes, then over passes: comparable if a pass is an update.
OF_A_PASS = ("kl", "entropy", "clip_ratio/region_mean")


def arguments(materials, out, objective, placement="criterion", **change):
    """Arguments of `training train`; placement: criterion (the hybrid), lora or full."""
    command = list(map(str, materials.command(objective, out, **change)))
    settings = json.loads(command[-1]) | {"placement": placement, "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
    if placement != "criterion":
        where = command.index("--allocation")
        del command[where : where + 2]
    return [*command[:-1], json.dumps(settings)]


def start(command, log, processes=2, *options, **environment):
    """The launcher's process; its output goes to `log`."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    line = [*launch, *(options or ["--multi_gpu"])] if processes > 1 else [sys.executable]
    log.parent.mkdir(parents=True, exist_ok=True)
    path = f"{HERE.parents[1] / 'workflow'}:{HERE.parent}"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    with log.open("w") as out:
        return subprocess.Popen([*line, str(HERE / "replayed.py"), *command], stdout=out, stderr=out, env=environment)


def finished(command, log, processes=2, *options, **environment):
    process = start(command, log, processes, *options, **environment)
    assert process.wait(300) == 0, log.read_text()
    return log.read_text()


def compare(one, two, shown=SHOWN, tolerance=1e-5):
    """Two folders of outputs: every step's record and the weights that were kept."""
    a, b = (pq.read_table(folder / "history.parquet").to_pylist() for folder in (one, two))
    assert [r["step"] for r in a] == [r["step"] for r in b]
    for name in shown:
        if name in a[0]:
            for x, y in zip(a, b, strict=True):
                same = y[name] is None if x[name] is None else y[name] == pytest.approx(x[name], rel=tolerance, abs=tolerance)
                assert same, (name, x["step"], x[name], y[name])
    x, y = (load_file(folder / "made/adapter_model.safetensors") for folder in (one, two))
    assert x.keys() == y.keys()
    assert max((x[name] - y[name]).abs().max().item() for name in x) < tolerance


def changes(objective, size):
    return (SFT if objective == "sft" else REPLAYED) | {"device_batch_size": size}


def wait(process, log, step):
    """Until the log shows this step."""
    deadline = time.monotonic() + 200
    while f"training r {step}/" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def workers(process):
    """The training processes below a launcher, first to last."""
    found = [child for child in psutil.Process(process.pid).children() if "replayed.py" in " ".join(child.cmdline())]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def as_a_rule(command, log, nodes=1, **more):
    asked = {"processes": 2 // nodes, "nodes": nodes, "strategy": "ddp", "threads": 4}
    paths = {"PYTHONPATH": str(HERE.parents[1] / "workflow"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | paths | {launch.VARIABLE: json.dumps(asked)} | more
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        return subprocess.Popen([sys.executable, "-m", "hybrid_lora", *command], stdout=out, stderr=out, env=environment)


def compare_whole_models(materials, folder, options, environment):
    """Full fine-tuning on one process and, with these options of the launcher, on two: the models that come out."""
    for name, processes, words, variables in (("one", 1, (), {}), ("two", 2, options, environment)):
        command = arguments(materials, folder / name, "gspo", "full", **changes("gspo", 4))
        finished(command, folder / f"log-{name}", processes, *words, **variables)
    one, two = (load_file(folder / name / "made/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max((one[key] - two[key]).abs().max().item() for key in one) < 1e-5
