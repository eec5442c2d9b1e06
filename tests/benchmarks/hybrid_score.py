"""Benchmark: one Hybrid-Score batch against the exact perturbation it replaces, on a GPU, random weights.

    python tests/benchmarks/hybrid_score.py [--shape 1.5B] [--batch 8] [--length 1024] [--rounds 5] [--json FILE]

Perturbation (Eq. 9) costs 1 + 7 L forward passes; a Hybrid-Score batch (Algorithm 1) two forward and two backward
passes with gradients of e alone, which by operation count is at most 48 to 49 times cheaper at the 1.5B shape (fused
elementwise kernels are what can exceed it). Measured in turns in one run, five in a row as in a chunk, medians of the
time of one:

    plain      transformers' own forward pass under inference_mode, no branch, no loss, logits in bf16; none of our settings
    baseline   the same under the settings of the measurement: attention in a fixed order, fused rotary embedding
    forward    one pass of Eq. 9 as `probe perturbation` makes it, branches and loss included
    hybrid     a Hybrid-Score batch as `probe sensitivity` makes it, bit for bit reproducible; also with checkpointing

times_cheaper is (1 + 7 L) * plain / hybrid: Eq. 9 counted as transformers' own forward passes, what branches and loss cost it
left out. times_cheaper_than_fused is the same with baseline, the kernels of the measurement given to Eq. 9 too. Peak memory
is of Hybrid-Score batches alone, with and without checkpointing. What does not fit is None.
"""

import argparse
import contextlib
import copy
import functools
import json
import statistics
import sys

import torch

from hybrid_lora.allocation import shapes
from hybrid_lora.modeling import load, loss, svd_lora
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import chunks, partition, sensitivity

IN_A_ROW = 5  # the default of batches_per_chunk


def probe(alone, seed=0):
    """(a second model of the same weights, its branches with every tensor drawn at random)."""
    shared = {id(tensor): tensor for tensor in (*alone.parameters(), *alone.buffers())}
    model = copy.deepcopy(alone, shared)
    branches = svd_lora.attach(model, 16, {"method": "lora", "e": 1.0, "alpha": 1.0}, seed)
    model.to("cuda")
    generator = torch.Generator("cuda").manual_seed(seed)
    with torch.no_grad():
        for branch in branches.values():
            branch.B.normal_(std=0.01, generator=generator)
            branch.e.normal_(mean=1.0, std=0.1, generator=generator)
    return model.eval(), branches


def plain(shape, seed=0):
    """The model of the shape on the GPU in bf16 with random weights."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = type(shapes.model(shape))(shapes.model(shape).config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval()


def batch_of(model, size, length, seed=0):
    """A full batch: every position but the first is a target."""
    generator = torch.Generator("cuda").manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (size, length), device="cuda", generator=generator)
    targets = torch.arange(size * length, device="cuda").view(size, length)[:, :-1].flatten()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "targets": targets}


def seconds(function):
    """Time on the GPU of one of IN_A_ROW calls; what a call returns, if anything, is called after the next has started."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    waiting = None
    for _ in range(IN_A_ROW):
        started = function()
        if callable(waiting):
            waiting()
        waiting = started
    if callable(waiting):
        waiting()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / IN_A_ROW


def attempt(function):
    """`seconds`, None where the memory is not enough."""
    try:
        return seconds(function)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def peak_gib(function):
    """Highest GPU memory during a call, model included, in GiB."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def compare(arguments, found):
    """Times in turns; two rounds of warm-up first."""
    alone = plain(arguments.shape)
    model, branches = probe(alone)
    batch = batch_of(model, arguments.batch, arguments.length)
    bucket = partition.bucket_a(list(branches), 0, 0, 0.5)

    @torch.inference_mode()
    def bare():
        alone(input_ids=batch["input_ids"], use_cache=False)

    @torch.inference_mode()
    def forward():
        loss.next_token_loss(model, batch)

    times = {}
    for turn in range(arguments.rounds + 2):
        taken = {"plain": seconds(bare)}
        with chunks.deterministic(), measuring(model, branches) as halves:
            launch = functools.partial(sensitivity.launch, model, batch, bucket, halves)
            taken |= {"baseline": seconds(bare), "forward": seconds(forward), "hybrid": attempt(launch)}
            load.set_checkpointing(model, True)
            taken["hybrid_checkpointing"] = attempt(launch)
            load.set_checkpointing(model, False)
        for name, value in taken.items() if turn >= 2 else ():
            times.setdefault(name, []).append(value)
    medians = {name: None if None in values else statistics.median(values) for name, values in times.items()}
    found |= {f"{name}_s": value for name, value in medians.items()}
    found["passes"] = 1 + len(branches)
    for name in ("baseline", "forward"):
        found[f"{name}_over_plain"] = medians[name] / medians["plain"]
    for base, against in (("plain", ""), ("baseline", "_than_fused"), ("forward", "_than_own_forward")):
        for name, end in (("hybrid", ""), ("hybrid_checkpointing", "_checkpointing")):
            value = found["passes"] * medians[base] / medians[name] if medians[name] else None
            found[f"times_cheaper{against}{end}"] = value


def memory(arguments, found):
    """Peak memory of the Hybrid-Score batch alone."""
    model, branches = probe(plain(arguments.shape))
    batch = batch_of(model, arguments.batch, arguments.length)
    bucket = partition.bucket_a(list(branches), 0, 0, 0.5)
    with chunks.deterministic(), measuring(model, branches) as halves:
        for on in (True, False):
            load.set_checkpointing(model, on)
            key = "peak_gib_checkpointing" if on else "peak_gib"
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                call = functools.partial(seconds, functools.partial(sensitivity.launch, model, batch, bucket, halves))
                call()  # kernels compiled, workspaces there
                found[key] = peak_gib(call)
            found.setdefault(key, None)


def main():
    """Print the figures as text and, on request, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="1.5B")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("hybrid_score: no GPU here; this benchmark measures GPU time and memory")
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    found |= {key: value for key, value in vars(arguments).items() if key != "json"}
    memory(arguments, found)
    torch.cuda.empty_cache()
    compare(arguments, found)
    for key, value in found.items():
        print(f"{key:32} {value:.4g}" if isinstance(value, float) else f"{key:32} {value}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            file.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
