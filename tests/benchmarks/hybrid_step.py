"""Benchmark: one GRPO update of the hybrid against one of full fine-tuning, on a GPU, random weights.

    python tests/benchmarks/hybrid_step.py [--shape 1.5B] [--batch 8] [--length 1024] [--rounds 7] [--json FILE]

An update is what `training train` makes of one batch: log-probabilities by TRL's fused LM head, the GRPO loss with its KL
term, backward pass, clipping of the gradient, fused AdamW, all settings but the placement alike. Sides, in turns in one
run, medians of the time of one update:

    full          every parameter, fused elementwise kernels (`fast_layers: true`)
    full_plain    the same with transformers' own operations (`fast_layers: false`)
    hybrid        a random 10 % of the candidate parameters in full, LoRA r = 16 on the rest, `fast_layers: true`
    hybrid_plain  the same with PEFT's and transformers' own operations and a float32 base, as PEFT loads it

with and without gradient checkpointing. Ratios are of `hybrid` to each of the full ones. Peak memory is each side's alone, in a
process of its own; the reference of full fine-tuning's KL term is a second model, that of the hybrid is the model itself.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))

from hybrid_lora.allocation import select, shapes
from hybrid_lora.modeling import candidates, fast_layers, hybrid
from hybrid_lora.objectives import rl

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("full", "full_plain", "hybrid", "hybrid_plain")


def model_of(shape, dtype):
    """A model of the shape with random weights on the GPU."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            return type(shapes.model(shape))(shapes.model(shape).config)
    finally:
        torch.set_default_dtype(torch.float32)


def placement(model, seed=0):
    """(peft.LoraConfig, parameters trained in full) of a random allocation of 10 % of the candidate parameters."""
    rows = [vars(candidate) for candidate in candidates.find(model)]
    ranks = random.Random(seed).sample(range(len(rows)), len(rows))
    fft, _ = select.select([row | {"rank": rank} for row, rank in zip(rows, ranks)], "params", 0.1, "skip")
    names = [row["module"] for row in rows if row["module"] not in set(fft)]
    return hybrid.lora_config({"rank": 16, "alpha": 32, "names": names}, fft), select.trainable(rows, fft, 16)


class Side:
    """One side: a trainer of ours and one fixed batch of rollouts."""

    def __init__(self, name, arguments, work):
        self.name, self.fast = name, not name.endswith("_plain")
        frozen = torch.bfloat16 if name == "hybrid" else torch.float32
        model = model_of(arguments.shape, frozen)
        peft, self.counts = (None, None) if name.startswith("full") else placement(model)
        objective = yaml.safe_load((ROOT / "config/config.yaml").read_text())["objectives"]["gspo"] | {"algorithm": "grpo"}
        self.trainer = _trainer(model, peft, objective | {"kl": 0.0, "gradient_checkpointing": True}, work)
        self.trainer.beta = objective["kl"]  # the batch brings the reference's log-probabilities
        hybrid.to_fp32_trainable(self.trainer.model)
        self.trainer.model.train()
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1
        self.batch = rollouts(arguments.batch, arguments.length, model.config.vocab_size)
        if self.fast:
            fast_layers.apply(self.trainer.model)

    def checkpointing(self, on):
        """Recompute activations, or not."""
        base = self.trainer.model
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        if on:
            base.gradient_checkpointing_enable(self.trainer.args.gradient_checkpointing_kwargs)
        else:
            base.gradient_checkpointing_disable()

    def fuse(self, on):
        """Switch the fast computation of a full model on or off; its weights are the same."""
        (fast_layers.apply if on else fast_layers.remove)(self.trainer.model)

    def update(self):
        """One optimizer step."""
        trainer = self.trainer
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, self.batch)
        trainer.accelerator.backward(loss)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)


def _trainer(model, peft, objective, work):
    from samples import conversations

    from hybrid_lora.model import tokenizer

    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    row = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}
    row |= {"id": "a", "source": "math", "gold": "2", "tests": None}
    with contextlib.redirect_stdout(sys.stderr):
        return rl.build(model, peft, words, [row] * 512, objective, 0, work, [], {"math_timeout_s": 5}, 1, "benchmark")


def rollouts(size, length, vocabulary):
    """A batch as TRL hands it to its loss: 128 tokens of prompt, the rest completion."""
    generator = torch.Generator("cuda").manual_seed(0)
    ids = torch.randint(0, vocabulary, (size, length), device="cuda", generator=generator)
    logps = torch.full((size, length - 128), -12.0, device="cuda")
    return {
        "prompt_ids": ids[:, :128],
        "prompt_mask": torch.ones_like(ids[:, :128]),
        "completion_ids": ids[:, 128:],
        "completion_mask": torch.ones_like(ids[:, 128:]),
        "advantages": torch.linspace(-1, 1, size, device="cuda"),
        "old_per_token_logps": logps,
        "ref_per_token_logps": logps,
        "num_items_in_batch": torch.tensor(size * (length - 128), device="cuda"),
    }


def seconds(function, count=3):
    """Time of one of `count` calls."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(count):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / count


def times(arguments, work):
    """{side: median seconds} for checkpointing off and on, and the numbers of parameters trained."""
    full, fast, plain = (Side(name, arguments, work) for name in ("full", "hybrid", "hybrid_plain"))
    turns = {
        "full": (full, lambda: full.fuse(True)),
        "full_plain": (full, lambda: full.fuse(False)),
        "hybrid": (fast, lambda: None),
        "hybrid_plain": (plain, lambda: None),
    }
    found = {}
    for on in (False, True):
        taken = {name: [] for name in SIDES}
        for turn in range(arguments.rounds + 1):
            for name, (side, prepare) in turns.items():
                prepare()
                side.checkpointing(on)
                side.update()
                value = seconds(side.update)
                if turn:
                    taken[name].append(value)
        key = "checkpointing" if on else "no_checkpointing"
        found[key] = {name: statistics.median(values) for name, values in taken.items()}
        for other in ("full", "full_plain", "hybrid_plain"):
            found[key][f"hybrid_over_{other}"] = found[key]["hybrid"] / found[key][other]
    return found, fast.counts


def memory(name, arguments, work):
    """{checkpointing, no_checkpointing}: peak GiB of updates of one side, all weights and states included."""
    side, found = Side(name, arguments, work), {}
    reference = model_of(arguments.shape, torch.float32).requires_grad_(False) if name.startswith("full") else None
    for on in (True, False):
        side.checkpointing(on)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            side.update()
        torch.cuda.synchronize()
        found["checkpointing" if on else "no_checkpointing"] = torch.cuda.max_memory_allocated() / 2**30
    found["reference"] = sum(p.numel() * p.element_size() for p in reference.parameters()) / 2**30 if reference else 0.0
    return found


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="1.5B")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--profile", metavar="FILE", help="instead: kernels of one update of the hybrid and of full, by time")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def profile(arguments, work):
    """A table of kernels for `hybrid` and `full`, without checkpointing."""
    with open(arguments.profile, "w") as file:
        for name in ("hybrid", "full"):
            side = Side(name, arguments, work)
            side.checkpointing(False)
            for _ in range(3):
                side.update()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
                side.update()
                torch.cuda.synchronize()
            table = seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
            file.write(f"{name}\n{table}\n")
            del side
            torch.cuda.empty_cache()


def main():
    """Print the figures as JSON and, on request, write them."""
    arguments = options()
    if not torch.cuda.is_available():
        sys.exit("hybrid_step: no GPU here; this benchmark measures GPU time and memory")
    with tempfile.TemporaryDirectory() as work:
        if arguments.profile:
            profile(arguments, work)
            return
        if arguments.memory_of:
            print("\n" + json.dumps(memory(arguments.memory_of, arguments, work)))
            return
        found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "peak_gib": {}}
        found |= {key: getattr(arguments, key) for key in ("shape", "batch", "length", "rounds")}
        for name in SIDES:
            command = [sys.executable, __file__, "--memory-of", name, "--shape", arguments.shape]
            command += ["--batch", str(arguments.batch), "--length", str(arguments.length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found["peak_gib"][name] = json.loads(done.stdout.splitlines()[-1])
        measured, counts = times(arguments, work)
    found |= {"trained_in_full": counts[0], "trained_lora": counts[1], "seconds": measured}
    peak = found["peak_gib"]
    found["hybrid_memory_over_full_and_reference"] = {
        key: peak["hybrid"][key] / peak["full_plain"][key] for key in ("checkpointing", "no_checkpointing")
    }
    print(json.dumps(found, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
