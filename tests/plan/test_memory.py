"""The memory formula against every allocation of real training steps, and against what an H200 and an H100 measured."""

import random

import pytest
import simulated
import torch

from hybrid_lora.allocation import select, shapes
from hybrid_lora.plan import architecture, memory

GIB = 2**30
ALLOCATION = {"unit": "params", "overflow": "skip", "lora": {"rank": 16}}
# (placement, checkpointing): peak GiB of one H200, 8 x 1024 tokens, float32 weights under bf16 autocast, fused AdamW, logits
# folded by torch (see `kernels`).
MEASURED = {
    ("full", True): 24.3,
    ("lora", True): 11.4,
    ("criterion", True): 12.8,
    ("full", False): 49.8,
    ("lora", False): 36.0,
    ("criterion", False): 36.9,
}
# (placement, fast layers, checkpointing): peak GiB of one H100 by tests/benchmarks/hybrid_step.py (README), 8 x 1024 tokens of
# which 128 are the prompt; float32 weights, with fast layers the hybrid's base bfloat16; full with its reference model.
UPDATES = {
    ("full", False, False): 52.4,
    ("full", False, True): 30.0,
    ("full", True, False): 45.9,
    ("full", True, True): 29.8,
    ("criterion", False, False): 33.9,
    ("criterion", False, True): 10.2,
    ("criterion", True, False): 18.1,
    ("criterion", True, True): 6.6,
}


@pytest.fixture(scope="module")
def qwen():
    return architecture.of_model(shapes.model("1.5B"), "here")


@pytest.mark.parametrize(("placement", "checkpointing"), MEASURED)
def test_within_fifteen_percent_of_the_measured_peak(qwen, placement, checkpointing):
    trained = architecture.trained(qwen, placement, ALLOCATION, 0.1)
    step = memory.Step(8192, 8184, frozen=4, checkpointing=checkpointing, kernels=False)
    _, parts = memory.peak(qwen, trained, step)
    assert sum(parts.values()) / GIB == pytest.approx(MEASURED[placement, checkpointing], rel=0.05)


@pytest.mark.parametrize(("placement", "fast", "checkpointing"), UPDATES)
def test_within_fifteen_percent_of_our_own_update(qwen, placement, fast, checkpointing):
    trained, hybrid = architecture.trained(qwen, placement, ALLOCATION, 0.1), placement != "full"
    frozen, second = (2 if fast and hybrid else 4), (0 if hybrid else 4 * qwen.total)
    step = memory.Step(8192, 8 * 896, frozen=frozen, checkpointing=checkpointing, fast=fast, reference=second)
    _, parts = memory.peak(qwen, trained, step)
    assert sum(parts.values()) / GIB == pytest.approx(UPDATES[placement, fast, checkpointing], rel=0.05)


def chosen(found):
    """The names that `architecture.trained` takes for a criterion."""
    rows = [vars(c) | {"rank": r} for c, r in zip(found, random.Random(0).sample(range(len(found)), len(found)))]
    return select.select(rows, "params", 0.1, "skip")[0]


PLACEMENTS = {"full": None, "lora": lambda found: [], "criterion": chosen}
LAYERS = 6


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    ("frozen", "autocast", "accumulated", "kernels"),
    [
        (torch.float32, True, False, True),
        (torch.float32, True, False, False),
        (torch.float32, False, True, True),
        (torch.bfloat16, True, True, True),
    ],
)
def test_formula_is_what_autograd_keeps(placement, checkpointing, frozen, autocast, accumulated, kernels):
    """Six layers of the 1.5B shape: without an embedding's gigabytes in the way a wrong layer shows."""
    if placement == "full" and frozen != torch.float32:
        pytest.skip("full fine-tuning has no frozen weight")
    shape = simulated.QWEN_1_5B | {"vocab_size": 16384}
    model = simulated.build(PLACEMENTS[placement], LAYERS, frozen, shape)
    sizes = architecture.of_model(simulated.build(None, LAYERS, frozen, shape), "here")
    trained = architecture.trained(sizes, placement, ALLOCATION, 0.1)
    if placement == "criterion":
        assert set(trained.fft) == set(chosen(sizes.candidates))
    peak = simulated.peak(model, 8, 1024, autocast, checkpointing, accumulated, kernels)
    step = memory.Step(
        8192,
        8184,
        compute=2 if autocast else 4,
        frozen=frozen.itemsize,
        checkpointing=checkpointing,
        accumulated=accumulated,
        kernels=kernels,
    )
    _, parts = memory.peak(sizes, trained, step)
    assert sum(parts.values()) == pytest.approx(peak, rel=0.1)


def test_every_setting_moves_its_part(qwen):
    trained = architecture.trained(qwen, "criterion", ALLOCATION, 0.1)

    def total(**change):
        return sum(memory.peak(qwen, trained, memory.Step(**{"tokens": 4096, "targets": 4096} | change))[1].values())

    plain = total()
    assert total(frozen=4) - plain > 2 * qwen.total * 0.9  # two more bytes a weight, and casts
    assert total(reference=10**9) == plain + 10**9
    assert total(processes=2) == plain + 4 * trained.total
    assert total(tokens=8192) > plain
    assert total(checkpointing=False) > 2 * plain
    unfused = memory.moments(qwen, trained, memory.Step(4096, 4096, fused=False))["optimizer step"]
    assert unfused["optimizer's temporaries"] == 4 * trained.total
