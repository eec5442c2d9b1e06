"""The table of `status`: what a cell says, how it gets narrow, and what costs are."""

from collections import Counter

import pytest

from hybrid_lora.common.files import write_json
from hybrid_lora.provenance import progress, status
from hybrid_lora.provenance.progress import Cell, Cost


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ({}, "-"),
        ({"done": 3}, "done"),
        ({"done": 1, "missing": 2}, "missing 1/3"),
        ({"missing": 2}, "missing"),
        ({"done": 1, "stale": 1, "missing": 1}, "stale"),
        ({"done": 1, "running": 1, "missing": 2}, "running 1/4"),
        ({"running": 1, "failed": 1}, "failed"),
    ],
)
def test_a_cell_in_a_word(states, text):
    assert Cell(Counter(states)).text() == text


def test_a_narrow_terminal_gets_letters():
    rows = [["run", "model", "gpqa", "hours", "GPU h", "peak GiB"], ["lora", "done", "missing 1/3", "1.00", "0.00", "2.0"]]
    wide = list(status._table(rows, 200, False))
    assert wide[1].split() == ["lora", "done", "missing", "1/3", "1.00", "0.00", "2.0"]
    narrow = list(status._table(rows, 45, False))
    assert max(map(len, narrow[:2])) <= 45
    assert narrow[1].split() == ["lora", "d", "m", "1/3", "1.00", "0.00", "2.0"]
    assert narrow[2].startswith("d done")
    assert "\033[32m" in list(status._table(rows, 200, True))[1]


def test_costs_add_up_and_the_largest_memory_stays():
    total = Cost(1, 2, 300)
    total.add(Cost(0.5, 0, 400))
    assert total == Cost(1.5, 2, 400)


@pytest.mark.parametrize(("row", "found"), [("7.5\t0:00:07\t602.4", (7.5, 602.4)), ("0.1\t0:00:00\tNA", (0.1, 0.0))])
def test_what_snakemake_measured(tmp_path, row, found):
    (tmp_path / "b.tsv").write_text(f"s\th:m:s\tmax_rss\n{row}\n")
    assert progress._benchmark(tmp_path / "b.tsv") == found
    assert progress._benchmark(tmp_path / "none.tsv") == (0.0, 0.0)


class Asked:
    """A job that asks for two GPUs."""

    outputs, benchmark, log, gpus = ["results/training/a/history.parquet"], "", "", 2


@pytest.mark.parametrize(("device", "hours"), [("NVIDIA H200", 2.0), ("cpu (x86_64)", 0.0)])
def test_hours_of_gpus_count_where_one_was_used(tmp_path, monkeypatch, device, hours):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/training/a").mkdir(parents=True)
    (tmp_path / Asked.outputs[0]).write_text("x")
    keys = {"stage": "training.train", "settings": {}, "inputs": {}, "code": {}, "outputs": {}}
    about = {**keys, "wall_s": 3600, "peak_memory_mb": 2048, "device": device}
    write_json(f"{Asked.outputs[0]}.manifest.json", about)
    found = progress.Progress(None, progress_records()).cost([Asked])
    assert (found.hours, found.gpu_hours, found.peak_mb) == (1.0, hours, 2048)


def progress_records():
    from hybrid_lora.provenance.records import Records

    return Records(exact=False)
