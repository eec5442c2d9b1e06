"""config/paper/sweep.*: the product that its first lines promise, and a configuration that holds."""

import itertools
from pathlib import Path

from hybrid_lora.config import layers, load

REPO = Path(__file__).resolve().parents[2]
FILES = ["config/config.yaml", "config/paper/sweep.yaml"]
SIZES, SEEDS, OBJECTIVES = ("1.5b", "3b", "7b"), range(5), ("grpo", "gspo")
PLAIN = ("full-ft", "lora", "lora-ffn")
CRITERIA = ("adalora", "autolora", "lora-drop", "hybrid", "hybrid-1", "hybrid-2", "hybrid-3", "hybrid-4")


def test_every_model_method_objective_and_seed():
    values = layers.merge(*(layers.read_yaml(REPO / name) for name in FILES))
    found = load(values, FILES, REPO)
    wanted = {(f"qwen2.5-{size}", method, None, None, seed) for size in SIZES for method in ("io", "cot") for seed in SEEDS}
    wanted |= {(f"qwen2.5-{size}", "full-ft", "sft", None, seed) for size in SIZES for seed in SEEDS}
    for size, objective, seed in itertools.product(SIZES, OBJECTIVES, SEEDS):
        wanted |= {(f"qwen2.5-{size}", method, objective, None, seed) for method in PLAIN}
        wanted |= {(f"qwen2.5-{size}", method, objective, 0.1, seed) for method in CRITERIA}
    rows = [(run.model, run.method, run.objective, run.budget, run.seed) for run in found.runs]
    assert len(rows) == len(set(rows)) == 375
    assert set(rows) == wanted
    assert len(found.values["evaluation"]["benchmarks"]) == 6
