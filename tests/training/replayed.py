"""`hybrid_lora`, but completions are replayed: which tokens follow a prompt depends on the step and on its place among all.

    accelerate launch --multi_gpu --num_processes 2 tests/training/replayed.py training train ...

TRL samples with a seed of each process, so runs on different numbers of processes can only be compared like this.
"""

import os
import random
import sys

import torch

from hybrid_lora.__main__ import main
from hybrid_lora.common.progress import Progress
from hybrid_lora.objectives.rl import RLTrainer

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


if __name__ == "__main__":
    RLTrainer.compute_loss = spoiled(RLTrainer.compute_loss, os.environ.get("REPLAY_NAN"))
    RLTrainer._generate_single_turn = completions
    torch.set_num_threads(1)
    sys.exit(main())
