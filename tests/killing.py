"""Kill -9 at random moments, start again until it is done, and compare with a run that nobody killed.

The commands are the real ones, each a process of its own; only their progress lines come at every step. So that a start costs
seconds, processes are forked from one that has imported what they need (`Starter`). A job's data has 16 rows, of which every
epoch is a few steps, so each goes on long past its first.
"""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import objective_settings
import pyarrow.parquet as pq
from objective_settings import GRADING
from samples import conversations, tiny_model

STARTER = """
import json, os, sys
from hybrid_lora.common.progress import Progress
Progress.__init__.__defaults__ = (0, 0.0, None)  # a line at every step
from hybrid_lora.__main__ import main
from hybrid_lora.probe import adalora, autolora, full_warmup, warmup, warmup_rl
from hybrid_lora.training import train
from hybrid_lora.model import pretrain

for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        out = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(asked["env"])
        sys.exit(main(asked["command"]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
SAVE_EVERY = 4
CHANGED = {
    "steps": 24,
    "schedule": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "validation": {"every": 3, "rows": 8, "metric": "nll"},
    "save_every": SAVE_EVERY,
}
RL = objective_settings.RL | CHANGED | {"max_completion_tokens": 32, "samples": {"every": 5, "count": 3}}
OBJECTIVES = {
    "sft": objective_settings.SFT | CHANGED,
    "grpo": RL | {"algorithm": "grpo"},
    "gspo": RL | {"algorithm": "gspo"},
}
WARMUP = {
    "steps": 24,
    "batch_size": 4,
    "device_batch_size": 4,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "max_length": 64,
    "save_every": SAVE_EVERY,
    "gradient_checkpointing": False,
    "seed": 3,
    "dtype": "float32",
}
ADALORA = {"initial_rank": 6, "target_rank": 4, "initial_share": 0.1, "final_share": 0.4, "interval": 3}
ADALORA |= {"beta1": 0.85, "beta2": 0.85, "orthogonality": 0.5}
AUTOLORA = {"weights": "module", "learning_rate": 0.01, "alpha_learning_rate": 0.01, "alpha_betas": [0.5, 0.999]}
PROBE = {"rank": 4, "init": {"method": "lora", "e": 1.0, "alpha": 1.0}, "warmup": WARMUP | {"objective": "nll"}}
PROBES = {
    "warmup": PROBE,
    "warmup-rl": PROBE | {"rl": RL | {"algorithm": "gspo"}, "grading": GRADING},
    "adalora": {"warmup": WARMUP, "adalora": ADALORA},
    "autolora": {"rank": 4, "warmup": WARMUP, "autolora": AUTOLORA | {"validation_share": 0.4}},
    "full-warmup": {"warmup": WARMUP, "full": {"learning_rate": 1e-3, "weights": "all"}},
}
PRETRAINING = {
    "name": "tiny",
    "tokenizer": {"vocab_size": 300},
    "architecture": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    },
    "pretraining": {"steps": 24, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "max_length": 64, "seed": 0},
}
JOBS = (*OBJECTIVES, *PROBES, "pretrain")


@dataclass
class Attempt:
    """One process: the step it began after (None: killed before), the last one it finished, and how it ended."""

    resumed: int | None
    reached: int
    returncode: int
    when: str
    log: str


class Materials:
    """Model, corpus and allocation of every job, made once in a folder."""

    def __init__(self, folder):
        from hybrid_lora.contracts import allocation, corpus
        from hybrid_lora.contracts import modules as modules_file

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = tiny_model(self.folder / "tiny")
        corpus.write(self.folder / "train.parquet", conversations(16))
        corpus.write(self.folder / "val.parquet", conversations(8, seed=1))
        listed = modules_file.read(self.model / "modules.json")
        names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
        value = dict.fromkeys(allocation.KEYS) | {"schema_version": 1, "model": listed["model"], "fft": FFT}
        value |= {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "names": names}}
        allocation.write(self.folder / "a.json", value)

    def command(self, job, out, seed=0, **change):
        """Arguments of `hybrid_lora` for a job of JOBS (for probes: of its folder `out/made`); change: of the objective."""
        model, train = ["--model", self.model], ["--train", self.folder / "train.parquet"]
        made, state = ["--out", out / "made"], ["--state", out / "state"]
        if job == "pretrain":
            return ["model", "pretrain", *train, *made, *state, "--settings", json.dumps(PRETRAINING)]
        if job in PROBES:
            return ["probe", job, *model, *train, *made, *state, "--settings", json.dumps(PROBES[job])]
        settings = {"run": "r", "seed": seed, "placement": "criterion", "objective": OBJECTIVES[job] | change, "grading": GRADING}
        files = ["--val", self.folder / "val.parquet", "--allocation", self.folder / "a.json"]
        for name in ("history.parquet", "trainable.json", "samples.parquet"):
            files += [f"--{name.partition('.')[0]}", out / name]
        return ["training", "train", *model, *train, *files, *made, *state, "--settings", json.dumps(settings)]


class Starter:
    """A process that has imported everything and forks commands, one at a time; prefix: of its own command line."""

    def __init__(self, prefix=()):
        line = [*prefix, sys.executable, "-c", STARTER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **pipes)

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def start(self, command, log, env=()):
        """A Command that runs, with its log."""
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        asked = {"command": list(map(str, command)), "log": str(log), "env": dict(env)}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return Command(self.process.stdout, Path(log))


class Command:
    """A command that was started; `end` must be called before the next one is."""

    def __init__(self, answers, log):
        self.answers, self.log = answers, log
        self.pid, self.returncode = int(answers.readline()), None

    def running(self):
        if self.returncode is None and select.select([self.answers], [], [], 0)[0]:
            self.returncode = int(self.answers.readline())
        return self.returncode is None

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def step(self):
        """The last step that the log tells of, -1 before the first."""
        found = re.findall(r" (\d+)/\d+ \(\d+ %\)", self.text())
        return int(found[-1]) if found else -1

    def wait(self, until, timeout_s=300):
        """True once `until()` is; False if the process has ended before."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if not self.running():
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(self.text()[-2000:])
            time.sleep(0.005)
        return True

    def end(self, number=None):
        """Send a signal, if any, and wait; returns the Attempt."""
        if number and self.running():
            os.kill(self.pid, number)
        self.wait(lambda: False)
        found = re.search(r"resuming after step (\d+)", self.text())
        began = int(found[1]) if found else 0 if self.step() >= 0 else None
        return Attempt(began, max(self.step(), began or 0), self.returncode, "", self.text())


def uninterrupted(starter, materials, job, out, **change):
    """(seconds until its first step, seconds of its steps); the outputs are in `out`."""
    began = time.monotonic()
    command = starter.start(materials.command(job, out, **change), out / "log")
    command.wait(lambda: command.step() >= 1)
    first = time.monotonic() - began
    attempt = command.end()
    assert attempt.returncode == 0, attempt.log
    return first, time.monotonic() - began - first


def killed(starter, materials, job, out, times, seed, limit=60, **change):
    """Attempts until one ends by itself; times: of `uninterrupted`. A seventh of later kills falls into the start."""
    draw, attempts, (first, steps) = random.Random(seed), [], times
    while len(attempts) < limit:
        command = starter.start(materials.command(job, out, **change), out / f"log-{len(attempts)}")
        early = attempts and draw.random() < 1 / 7
        delay = draw.uniform(0, first if early else 0.5 * steps)
        if not early:
            command.wait(lambda now=command: now.step() >= 0)
        until = time.monotonic() + delay
        command.wait(lambda until=until: time.monotonic() > until)
        attempt = command.end(signal.SIGKILL)
        attempt.when = f"{delay:.2f} s after its {'start' if early else 'first step'}"
        attempts.append(attempt)
        if attempt.returncode == 0:
            return attempts
        assert attempt.returncode == -signal.SIGKILL, attempt.log
    raise AssertionError(f"{job} not done after {limit} attempts")


def redone(attempts):
    """Steps that each attempt did a second time; one that was killed before it resumed did none."""
    counts, furthest = [], 0
    for attempt in attempts:
        counts.append(0 if attempt.resumed is None else furthest - attempt.resumed)
        furthest = max(furthest if attempt.resumed is None else 0, attempt.reached)
    return counts


def differences(one, two):
    """What differs between two folders of outputs, in words: every file to the byte, tables without times and memory."""
    names = sorted(
        {p.relative_to(f).as_posix() for f in (one, two) for p in f.rglob("*") if p.is_file() and not _unequal_by_nature(p, f)}
    )
    found = []
    for name in names:
        a, b = one / name, two / name
        if not (a.exists() and b.exists()):
            found.append(f"{name} is in one only")
        elif name.endswith("manifest.json"):
            keys = ("selected_step", "validation_loss", "steps", "final_loss")
            x, y = (json.loads(p.read_text()) for p in (a, b))
            found += [f"{name}: {k} {x.get(k)} {y.get(k)}" for k in keys if x.get(k) != y.get(k)]
        elif name.endswith(".parquet"):
            found += _table_differences(name, pq.read_table(a), pq.read_table(b))
        elif a.read_bytes() != b.read_bytes():
            found.append(f"{name} differs")
    return found


def _unequal_by_nature(path, folder):
    return path.relative_to(folder).parts[0].startswith(("log", "state")) or path.name.endswith(".manifest.json")


def _table_differences(name, one, two):
    if one.column_names != two.column_names:
        return [f"{name}: columns {sorted(set(one.column_names) ^ set(two.column_names))}"]
    timed = re.compile(r"elapsed_s|time|memory")
    columns = [c for c in one.column_names if not timed.search(c)]
    # NaN is equal to itself here
    return [f"{name}: {c}" for c in columns if repr(one[c].to_pylist()) != repr(two[c].to_pylist())]
