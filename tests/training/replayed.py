"""`hybrid_lora`, but completions are replayed: which tokens follow a prompt depends on the step and on its place among all.

    accelerate launch --multi_gpu --num_processes 2 tests/training/replayed.py training train ...

TRL samples with a seed of each process, so runs on different numbers of processes can only be compared like this.
"""

import os
import random

import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState

from hybrid_lora.__main__ import main
from hybrid_lora.common import ranks
from hybrid_lora.common.progress import Progress
from hybrid_lora.objectives.rl import RLTrainer
from hybrid_lora.training import train

Progress.__init__.__defaults__ = (0, 0.0, None)  # a line at every step


def completions(trainer, prompt_ids, *rest):
    """In place of GRPOTrainer._generate_single_turn: (ids, no log-probabilities)."""
    last, first = trainer.args.max_completion_length, trainer.accelerator.process_index * len(prompt_ids)
    words, end = trainer.model.config.vocab_size, trainer._tokenizer.eos_token_id
    found = []
    for place in range(first, first + len(prompt_ids)):
        draw = random.Random(f"{trainer.state.global_step} {place}")
        length = draw.randint(1, last)
        ids = [draw.randrange(words) for _ in range(length)]
        found.append(ids if length == last else [*ids, end])
    return found, None


def spoiled(compute, wanted):
    """`compute_loss` that gives NaN on one process at one step; wanted: "process step"."""

    def loss(self, *args, **kwargs):
        here = f"{self.accelerator.process_index} {self.state.global_step + 1}"
        return compute(self, *args, **kwargs) * (float("nan") if here == wanted else 1)

    return loss


def sharded(init):
    """`AcceleratorState.__init__` that shards on CPUs: accelerate 1.15 does on GPUs only, and makes copies without a word."""

    def made(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    return made


def for_deepspeed(prepare):
    """`PartialState._prepare_backend` that lets DeepSpeed work on CPUs, which DeepSpeed can; accelerate 1.15 asks for GPUs."""

    def prepared(self, cpu=False, *rest):
        if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and not torch.cuda.is_available():
            from deepspeed import comm

            comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
            return "gloo", DistributedType.MULTI_CPU
        return prepare(self, cpu, *rest)

    return prepared


def remembered(log):
    """`RLTrainer.log` that prints how many weights are in parts, and each process's highest peak of GPU memory so far."""
    peaks = [0.0]

    def logged(self, logs, *args, **kwargs):
        log(self, logs, *args, **kwargs)
        if "loss" in logs:
            peaks.append(logs.get("memory_gib", 0.0))
            parts = sum(hasattr(weight, "full_tensor") or hasattr(weight, "ds_id") for weight in self.model.parameters())
            print(f"process {self.accelerator.process_index}: peak {max(peaks):.3f} GiB, {parts} weights in parts", flush=True)

    return logged


if __name__ == "__main__":
    if os.environ.get("REPLAY_UNPACKED"):
        import vllm_here

        vllm_here.unpack()
    RLTrainer.log = remembered(RLTrainer.log)
    if not os.environ.get("REPLAY_NOTHING"):
        RLTrainer._generate_single_turn = completions
    if os.environ.get("REPLAY_UNPUBLISHED"):
        train._publish = lambda *args: os._exit(9)
    PartialState._prepare_backend = for_deepspeed(PartialState._prepare_backend)
    AcceleratorState.__init__ = sharded(AcceleratorState.__init__)
    RLTrainer.compute_loss = spoiled(RLTrainer.compute_loss, os.environ.get("REPLAY_NAN"))
    torch.set_num_threads(1)
    ranks.leave(main())
