"""The README shows what the repository holds."""

import json
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()


def test_table_is_the_file_it_comes_from():
    shown = README.split("<!-- table: demo -->\n")[1].split("<!-- end -->")[0]
    assert shown == (REPO / "workflow/report/demo/table1.md").read_text()


def test_diagnosis_has_the_numbers_of_its_file():
    said = README.split("stability of the allocation](")[1]
    said = said.split("\n## ")[0].split("\n\n", 1)[1]
    numbers = re.findall(r"-?\d\.\d\d", said)
    whole = (REPO / "workflow/report/demo/diagnose.md").read_text()
    assert len(numbers) >= 6
    assert not [number for number in numbers if number not in whole]


def test_speeds_are_those_of_the_benchmarks_files():
    files = sorted((REPO / "workflow/report/benchmarks").glob("hybrid_score-*.json"))
    assert len(files) == 2
    for path in files:
        found = json.loads(path.read_text())
        times = f"{1000 * found['plain_s']:.0f} ms | {1000 * found['hybrid_s']:.0f} ms | {found['times_cheaper']:.1f}"
        memory = f"{found['peak_gib']:.1f} GiB | {found['peak_gib_checkpointing']:.1f} GiB"
        assert f"| {found['shape']} | {times} | {memory} |" in README


def test_paths_and_targets_exist():
    for path in re.findall(r"\]\(([^)#]+)\)|`((?:config|workflow|rules|envs)/[\w./-]+)`", README):
        name = next(filter(None, path))
        if name != "config/mine.yaml":
            assert (REPO / name).exists(), name
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_rulegraph_names_every_rule():
    rules = {
        name for path in (REPO / "rules").glob("*.smk") for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
    }
    drawn = set(re.findall(r"id\d+\[(\w+)\]", README))
    assert rules - drawn == {
        "model_fetch",
        "stage_model",
        "stage_data",
        "warmup_rl",
    }  # nothing is fetched; the warm-up is supervised
