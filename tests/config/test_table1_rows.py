"""Every trained row of the paper's Table 1 is a line of a runs table: 1.5B of runs.tsv, all three sizes of paper/sweep.tsv."""

import csv
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[2] / "config"
# (post-training, efficiency approach) as Table 1 has them, in its order; 1.5B, 3B, 7B.
COMMON = [("GRPO", "AutoLoRA"), ("GRPO", "Hybrid-LoRA"), ("GSPO", "AutoLoRA"), ("GSPO", "Hybrid-LoRA")]
FULL = [("GRPO", "Full-FT"), ("GSPO", "Full-FT")]
SMALLEST = [("SFT", "Full-FT"), ("GSPO", "LoRA-FFN"), *((o, m) for o in ("GRPO", "GSPO") for m in ("AdaLoRA", "LoRA-Drop"))]
TABLE1 = {"qwen2.5-1.5b": COMMON + FULL + SMALLEST, "qwen2.5-3b": COMMON + FULL, "qwen2.5-7b": COMMON}
METHODS = {"Full-FT": "full-ft", "Hybrid-LoRA": "hybrid"}
RL = ("full-ft", "lora", "lora-ffn", "adalora", "autolora", "lora-drop", "hybrid")


def rows(table):
    with (CONFIG / table).open() as file:
        return {(row["model"], row["objective"], row["method"]): row for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize("table, models", [("runs.tsv", ["qwen2.5-1.5b"]), ("paper/sweep.tsv", list(TABLE1))])
def test_rows_of_table_1(table, models):
    found = rows(table)
    for model in models:
        for objective, approach in TABLE1[model]:
            row = found[model, objective.lower(), METHODS.get(approach, approach.lower())]
            assert row["budget"] == ("0.1" if approach not in ("Full-FT", "LoRA-FFN") else "-"), row
    assert {(m, "-", untrained) for m in models for untrained in ("io", "cot")} <= found.keys()


@pytest.mark.parametrize("objective", ["grpo", "gspo"])
def test_every_method_under_both_objectives(objective):
    assert {("qwen2.5-1.5b", objective, method) for method in RL} <= rows("runs.tsv").keys()


def test_ablations_of_table_2():
    assert {("qwen2.5-1.5b", "gspo", f"hybrid-{number}") for number in (1, 2, 3, 4)} <= rows("runs.tsv").keys()
