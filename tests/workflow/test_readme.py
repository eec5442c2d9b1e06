"""The README shows what the repository holds."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()


def test_table_is_the_file_it_comes_from():
    shown = README.split("<!-- table: demo -->\n")[1].split("<!-- end -->")[0]
    assert shown == (REPO / "workflow/report/demo/table1.md").read_text()


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
    assert rules - drawn == {"model_fetch"}  # the demo's model is made, not fetched
