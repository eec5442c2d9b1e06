"""Benchmark: the memory that `hybrid_lora plan` says a training step needs against the peak on a GPU, random weights.

    python tests/benchmarks/plan_memory.py [--shape 1.5B] [--batch 8] [--length 1024] [--json FILE]
    python tests/benchmarks/plan_memory.py --colocate [--shape 7B] [--engine 0.3] [--sleep] [--answer 4096]

The first: one GRPO update as `training train` makes it (hybrid_step.py's: TRL's loss through our trainer, backward pass,
clipping, fused AdamW) of full fine-tuning, LoRA on all candidates and a random hybrid of 10 %, each as PEFT and transformers
compute it on float32 weights and with `fast_layers` (adapters then on a bfloat16 base), with and without gradient checkpointing.
Each placement in a process of its own. `ratio` is planned over measured and is to lie within 0.85 and 1.15.

The second: whether GRPO of a hybrid with vLLM on the same GPU fits. The real trainer with the real engine samples 32
completions of full length (random weights do not stop by themselves) and makes two updates of them; printed are the most that
the GPU held, the driver's count, and the plan's. About 15 GB of temporary disk for the 7B shape.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))

import hybrid_step

from hybrid_lora.allocation import shapes
from hybrid_lora.modeling import candidates, fast_layers, hybrid, load
from hybrid_lora.plan import architecture, memory, training
from hybrid_lora.plan.gpus import GIB, OUTSIDE

ROOT = Path(__file__).resolve().parents[2]
PLACEMENTS = ("full", "lora", "hybrid")
ALLOCATION = {"unit": "params", "overflow": "skip", "lora": {"rank": 16}}
PROMPT = 128  # of hybrid_step's batch
ROWS, GROUP, UPDATES = 8, 4, 2


def sizes(shape, placement):
    """(Shape, Trained) as the plan sees them; a hybrid's modules are the ones that are trained here too."""
    found = architecture.of_model(shapes.model(shape), "its published shape")
    return found, architecture.trained(found, "criterion" if placement == "hybrid" else placement, ALLOCATION, 0.1)


def adapter(model, fft):
    """peft.LoraConfig with exactly these modules in full; None for full fine-tuning."""
    if fft is None:
        return None
    names = [c.module for c in candidates.find(model) if c.module not in set(fft)]
    return hybrid.lora_config({"rank": 16, "alpha": 32, "names": names}, fft)


def objective_of(**change):
    """The configuration's gspo with changes."""
    return yaml.safe_load((ROOT / "config/config.yaml").read_text())["objectives"]["gspo"] | change


class Side(hybrid_step.Side):
    """hybrid_step's side with a placement of the plan's."""

    def __init__(self, trained, fast, arguments, work):
        frozen = torch.bfloat16 if fast and trained.fft is not None else torch.float32
        model = hybrid_step.model_of(arguments.shape, frozen)
        objective = objective_of(kl=0.0, gradient_checkpointing=True)
        self.trainer = hybrid_step._trainer(model, adapter(model, trained.fft), objective, work)
        self.trainer.beta = 0.01  # the batch brings the reference's log-probabilities
        hybrid.to_fp32_trainable(self.trainer.model)
        self.trainer.model.train()
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.batch = hybrid_step.rollouts(arguments.batch, arguments.length, model.config.vocab_size)
        if fast:
            fast_layers.apply(self.trainer.model)


def measure(arguments, work):
    """[{placement, fast, checkpointing, planned, measured, ratio}] of one placement, in GiB."""
    shape, trained = sizes(arguments.shape, arguments.placement)
    side, found = Side(trained, arguments.fast, arguments, work), []
    for checkpointing in (True, False):
        side.checkpointing(checkpointing)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            side.update()
        torch.cuda.synchronize()
        measured = torch.cuda.max_memory_allocated() / GIB
        step = memory.Step(
            arguments.batch * arguments.length,
            arguments.batch * (arguments.length - PROMPT),
            frozen=2 if arguments.fast else 4,
            checkpointing=checkpointing,
            fast=arguments.fast,
        )
        moment, parts = memory.peak(shape, trained, step)
        planned = sum(parts.values()) / GIB
        row = {"placement": arguments.placement, "fast": arguments.fast, "checkpointing": checkpointing}
        found.append(row | {"planned": planned, "measured": measured, "ratio": planned / measured, "moment": moment})
    return found


class Watch(threading.Thread):
    """The most memory that the driver counted as used on the GPU, looked at every 20 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.stopped = 0, threading.Event()

    def run(self):
        while not self.stopped.wait(0.02):
            free, total = torch.cuda.mem_get_info()
            self.most = max(self.most, total - free)


def folder_of(shape, path):
    """A model folder with random bfloat16 weights and a tokenizer that has a word for every row of the embedding."""
    from samples import conversations

    from hybrid_lora.model import tokenizer

    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    model = hybrid_step.model_of(shape, torch.bfloat16)
    model.config.eos_token_id = model.generation_config.eos_token_id = words.eos_token_id
    model.config.pad_token_id = words.pad_token_id
    model.save_pretrained(path)
    words.save_pretrained(path)
    about = json.loads((path / "tokenizer.json").read_text())
    about["model"]["vocab"] |= {f"w{i}": i for i in range(len(words), model.config.vocab_size)}
    (path / "tokenizer.json").write_text(json.dumps(about))
    (path / "modules.json").write_text("{}")


def colocate(arguments, work):
    """{planned, most used, ...} of two updates of a hybrid with vLLM on the same GPU."""
    from samples import conversations

    from hybrid_lora.objectives import rl

    began = time.monotonic()
    shape, trained = sizes(arguments.shape, "hybrid")
    path = Path(work) / "model"
    folder_of(arguments.shape, path)
    torch.cuda.empty_cache()
    engine = {"mode": "colocate", "gpu_memory_utilization": arguments.engine, "tensor_parallel": 1, "sleep": arguments.sleep}
    engine |= {
        "importance_correction": "token",
        "max_model_len": PROMPT + arguments.answer,
        "server": "http://127.0.0.1:8000",
        "group_port": 51216,
    }
    objective = objective_of(
        steps=UPDATES,
        sources=["math"],
        prompts_per_generation=ROWS,
        group_size=GROUP,
        updates_per_generation=UPDATES,
        save_every=UPDATES,
        max_completion_tokens=arguments.answer,
        rewards={"accuracy": 0.0, "format": 0.0, "length": 1.0},
        rollouts="vllm",
        vllm=engine,
    )
    watch = Watch()
    watch.start()
    words, model = load.tokenizer(path), load.model(path, "bfloat16")
    peft = adapter(model, trained.fft)
    built = rl.build(model, peft, words, conversations(64), objective, 0, Path(work), [], {"math_timeout_s": 5}, 1, "benchmark")
    built.args.save_strategy = "no"
    hybrid.to_fp32_trainable(built.model)
    if objective["fast_layers"]:
        fast_layers.apply_to(built)
    built.train()
    torch.cuda.synchronize()
    watch.stopped.set()
    total = torch.cuda.get_device_properties(0).total_memory
    moment, parts, _ = training.peak(shape, trained, objective, PROMPT, 1, total)
    planned = (sum(parts.values()) + OUTSIDE) / GIB
    most = watch.most / GIB
    lengths = [e["completions/mean_length"] for e in built.state.log_history if "completions/mean_length" in e]
    return {
        "shape": arguments.shape,
        "engine_share": arguments.engine,
        "sleep": arguments.sleep,
        "gpu_gib": total / GIB,
        "used_gib": most,
        "allocated_by_torch_gib": torch.cuda.max_memory_allocated() / GIB,
        "planned_gib": planned,
        "ratio": planned / most,
        "moment": moment,
        "fits_80_gb": most < 79.2,
        "steps": built.state.global_step,
        "mean_completion": lengths,
        "seconds": time.monotonic() - began,
    }


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, help="default 1.5B, with --colocate 7B")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--colocate", action="store_true", help="instead: a hybrid with vLLM on the same GPU")
    parser.add_argument("--engine", type=float, default=0.3, metavar="SHARE", help="vLLM's share of the GPU's memory")
    parser.add_argument("--sleep", action="store_true", help="vLLM gives its memory back during updates")
    parser.add_argument("--answer", type=int, default=4096, metavar="N", help="tokens of a completion")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--placement", choices=PLACEMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--fast", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.shape = arguments.shape or ("7B" if arguments.colocate else "1.5B")
    return arguments


def compare(arguments):
    """All rows, each placement in a process of its own, printed as they come."""
    found = []
    print(
        f"{'placement':10} {'fast_layers':12} {'checkpointing':14} {'planned':>8} {'measured':>9} {'ratio':>6}  highest at",
        flush=True,
    )
    for fast in (False, True):
        for placement in PLACEMENTS:
            command = [
                sys.executable,
                __file__,
                "--placement",
                placement,
                "--shape",
                arguments.shape,
                *(["--fast"] if fast else []),
            ]
            command += ["--batch", str(arguments.batch), "--length", str(arguments.length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for row in json.loads(done.stdout.splitlines()[-1]):
                found.append(row)
                sizes = f"{row['planned']:8.2f} {row['measured']:9.2f} {row['ratio']:6.3f}"
                print(f"{placement:10} {fast!s:12} {row['checkpointing']!s:14} {sizes}  {row['moment']}", flush=True)
    return found


def main():
    arguments = options()
    if not torch.cuda.is_available():
        sys.exit("plan_memory: no GPU here; this benchmark measures GPU memory")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as work:
        if arguments.placement:
            print("\n" + json.dumps(measure(arguments, work)))
            return
        result = colocate(arguments, work) if arguments.colocate else compare(arguments)
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "result": result}
    if arguments.colocate:
        print(json.dumps(result, indent=1))
    else:
        worst = max(abs(row["ratio"] - 1) for row in result["result"])
        print(f"{result['device']}, torch {result['torch']}: farthest from 1 is {worst:.3f}, allowed is 0.15")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
