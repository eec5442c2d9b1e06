"""Several processes for one training: `accelerate launch`, on one node or on every node of a Slurm job.

How many there are reaches the command as an environment variable, as it is no setting of a job (results do not depend on it but
for the random numbers of sampling). Where one process is asked for, nothing happens here. Otherwise the command starts itself
again as many times as asked: on several nodes first once a node by srun, and there by accelerate.
"""

import json
import os
import shlex
import signal
import subprocess
import sys

from hybrid_lora.common.code import ROOT
from hybrid_lora.common.errors import UserError

VARIABLE = "HYBRID_LORA_COMPUTE"
NODE = "HYBRID_LORA_NODE"  # set where srun has started the command on its node
DEFAULTS = {"processes": 1, "nodes": 1, "strategy": "ddp", "threads": 2}
CONFIGURATIONS = ROOT.parent / "config" / "accelerate"
MODULE = "hybrid_lora.training"
PORTS = range(20000, 30000)  # of several nodes, by the job's number
WAIT_S = 3600  # what processes told to stop may take to end their step and save; the launcher's 30 s are too few for a generation


def chosen():
    """{processes (of a node), nodes, strategy, threads (of a node)} that the rule asked for, DEFAULTS by hand."""
    return DEFAULTS | json.loads(os.environ.get(VARIABLE) or "{}")


def several(command):
    """Run `training` with these arguments on as many processes as asked: the exit status; None if this process is to do it."""
    asked = chosen()
    if "RANK" in os.environ or asked["processes"] * asked["nodes"] == 1:
        return None
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(WAIT_S))
    command = [*command, "--workers", str(max(asked["threads"] // asked["processes"], 1))]  # of each process; the last one counts
    if asked["nodes"] > 1 and NODE not in os.environ:
        return _status(_on_every_node(asked, command), os.environ | {NODE: "1"})
    if asked["nodes"] == 1:  # nothing is to listen to other machines
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
    return _launch([*arguments(asked), "-m", MODULE, *command])


def arguments(asked):
    """Arguments of `accelerate launch` on this node."""
    total = asked["processes"] * asked["nodes"]
    told = {"num_processes": total, "num_machines": asked["nodes"], "mixed_precision": "no", "dynamo_backend": "no"}
    if asked["nodes"] > 1:
        job = int(os.environ["SLURM_JOB_ID"])
        where = {"main_process_ip": _first_node(), "main_process_port": PORTS[job % len(PORTS)]}
        told |= {"machine_rank": os.environ["SLURM_NODEID"], **where}
    else:
        told["main_process_port"] = 0  # any that is free
    file = CONFIGURATIONS / f"{asked['strategy']}.yaml"  # without one, accelerate would read the user's own defaults
    if not file.is_file():
        raise UserError(f"{file}: no such file; compute.strategy is {asked['strategy']}, which is described there")
    return ["--config_file", str(file), *(word for name, value in told.items() for word in (f"--{name}", str(value)))]


def _on_every_node(asked, command):
    """srun that starts this command once a node; it uses the allocation of the job it runs in."""
    if "SLURM_JOB_ID" not in os.environ:
        raise UserError(f"compute.nodes is {asked['nodes']}, which needs a Slurm job; use `--profile slurm`, or nodes: 1")
    tasks = [f"--nodes={asked['nodes']}", f"--ntasks={asked['nodes']}", "--ntasks-per-node=1"]
    how = [f"--cpus-per-task={asked['threads']}", "--kill-on-bad-exit=1", "--export=ALL"]
    return ["srun", *tasks, *how, sys.executable, "-m", MODULE, *command]


def _first_node():
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    told = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True)
    return told.stdout.split()[0]


def _launch(words):
    """`accelerate launch` in this process; its status is that of the process that failed first, whose log says why."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    print(f"hybrid_lora: accelerate launch {shlex.join(words[: words.index('-m')])}", file=sys.stderr, flush=True)
    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def _status(line, environment):
    """Run a command line and pass on to it what asks this process to stop."""
    process = subprocess.Popen(line, env=environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    status = process.wait()
    return status if status >= 0 else 128 - status
