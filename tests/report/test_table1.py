"""Table 1's numbers are those of the metrics and trainable files, in both formats."""

import csv
import json

import pytest

from hybrid_lora.contracts import metrics
from hybrid_lora.report.__main__ import main
from hybrid_lora.report.amounts import budget, short_count

BENCHMARKS = [{"name": "math-500"}, {"name": "gpqa"}]
METRICS = {"math-500": "pass@1", "gpqa": "accuracy"}
RUNS = [  # run, model, method, objective, budget, total tunable
    ("a-io", "a", "io", "none", "-", None),
    ("a-full", "a", "full-ft", "gspo", "-", 1_543_710_000),
    ("b-cot", "b", "cot", "-", "-", None),
    ("a-hybrid", "a", "hybrid", "gspo", "0.1", 12_345),
    ("a-random", "a", "random", "grpo", 0.1, 104_612_864),
]


@pytest.fixture
def table(tmp_path):
    """Writes Table 1 of RUNS with the given settings; returns (status, CSV rows as dicts, Markdown text)."""

    def write(unjudged=0, **changes):
        rows = [_row(tmp_path, index, run, unjudged) for index, run in enumerate(RUNS)]
        settings = {"digits": 1, "intervals": False, "unit": "params", "rows": rows, "benchmarks": BENCHMARKS, **changes}
        metrics_paths = [path for row in rows for path in row["metrics"].values()]
        tunable = [row["tunable"] for row in rows if row["tunable"]]
        outputs = ["--csv", str(tmp_path / "t.csv"), "--md", str(tmp_path / "t.md"), "--settings", json.dumps(settings)]
        outputs += ["--tex", str(tmp_path / "t.tex")]
        status = main(["table1", "--metrics", *metrics_paths, "--tunable", *tunable, *outputs])
        if status:
            return status, None, None
        return status, list(csv.DictReader(open(tmp_path / "t.csv"))), (tmp_path / "t.md").read_text()

    return write


def _row(folder, index, run, unjudged):
    name, model, method, objective, amount, total = run
    paths = {}
    for offset, benchmark in enumerate(b["name"] for b in BENCHMARKS):
        path = folder / f"{name}.{benchmark}.json"
        value = (index * 10 + offset) / 64  # exact in binary, so rounding is the table's alone
        record = {"metric": METRICS[benchmark], "value": value, "low": value / 2, "high": value + 0.25, "n": 64}
        metrics.write(path, {**record, "k": 1, "samples": 1, "truncated": 0, "unjudged": unjudged})
        paths[benchmark] = str(path)
    tunable = None
    if total is not None:
        tunable = str(folder / f"{name}.trainable.json")
        (folder / f"{name}.trainable.json").write_text(json.dumps({"fft": 0, "lora": total, "total": total, "all": 2 * total}))
    keys = {"run": name, "model": model, "method": method, "objective": objective, "budget": amount, "seed": 0}
    return {**keys, "metrics": paths, "tunable": tunable}


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_csv_numbers_equal_the_files(table):
    _, rows, _ = table()
    by_run = {row["run"]: row for row in rows}
    for index, (name, _, _, _, _, total) in enumerate(RUNS):
        row = by_run[name]
        assert row["math-500 pass@1"] == f"{100 * index * 10 / 64:.1f}"
        assert row["gpqa accuracy"] == f"{100 * (index * 10 + 1) / 64:.1f}"
        assert row["gpqa low"] == f"{50 * (index * 10 + 1) / 64:.1f}"
        assert row["gpqa high"] == f"{100 * (index * 10 + 1) / 64 + 25:.1f}"
        assert row["mean"] == f"{100 * (index * 10 + 0.5) / 64:.1f}"
        assert row["tunable_params"] == str(total or 0)


def test_markdown_has_one_row_a_run_under_its_model(table):
    _, _, text = table()
    rows = markdown_rows(text)
    assert rows[0][:5] == [
        "Post-training approach",
        "Param efficient approach",
        "#Tunable params",
        "Math-500<br>pass@1",
        "GPQA<br>accuracy",
    ]
    assert [row[0] if row[-1] == "" else row[-1] for row in rows[2:]] == [
        "**a**",
        "a-io",
        "a-full",
        "a-hybrid",
        "a-random",
        "**b**",
        "b-cot",
    ]
    assert rows[3] == ["IO", "-", "0", "0.0", "1.6", "0.8", "a-io"]
    assert rows[4] == ["GSPO", "Full-FT", "1.54B", "15.6", "17.2", "16.4", "a-full"]
    assert rows[5][:3] == ["GSPO", "Hybrid-LoRA (10 % of candidate parameters)", "12.3K"]
    assert rows[6][:3] == ["GRPO", "random (10 % of candidate parameters)", "105M"]
    assert rows[8][:2] == ["COT", "-"]
    assert len({len(row) for row in rows}) == 1


def test_digits_and_intervals(table):
    _, rows, text = table(digits=2, intervals=True)
    assert rows[0]["gpqa accuracy"] == "1.56"
    assert "1.56 [0.78, 26.56]" in text
    assert "[" not in table()[2]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("params", "a share of the candidate modules' parameters (Eq. 4)."),
        ("modules", "a share of the number of candidate modules."),
    ],
)
def test_note_says_the_one_unit_of_budgets(table, unit, words):
    assert f"Budgets of full fine-tuning are all in one unit: {words}" in table(unit=unit)[2]


def test_note_without_budgets_has_no_unit(table, tmp_path):
    rows = [_row(tmp_path, index, run, 0) for index, run in enumerate(RUNS[:3])]
    status, _, text = table(rows=rows, unit=None)
    assert status == 0 and "Budgets" not in text


@pytest.mark.parametrize(
    ("method", "title"),
    [
        ("lora-ffn", "LoRA-FFN"),
        ("adalora", "AdaLoRA"),
        ("autolora", "AutoLoRA"),
        ("lora-drop", "LoRA-Drop"),
        ("hybrid-1", "Hybrid-LoRA-1"),
        ("hybrid-4", "Hybrid-LoRA-4"),
        ("my-method", "my-method"),  # a user's own name stays
    ],
)
def test_approaches_bear_the_papers_names(table, tmp_path, method, title):
    row = {**_row(tmp_path, 3, RUNS[3], 0), "method": method}
    _, rows, text = table(rows=[row])
    assert rows[0]["param_efficient"] == title
    assert f"| GSPO | {title} (10 % of candidate parameters) | 12.3K |" in text


def test_grader_failures_are_told(table):
    assert "The grader failed on 20 completions" in table(unjudged=2)[2]
    assert "grader" not in table()[2]


def test_bad_input_is_one_line(table, tmp_path, capsys):
    assert table(unit=None)[0] == 2
    assert "'unit' is None" in capsys.readouterr().err
    assert table(benchmarks=[*BENCHMARKS, {"name": "aime-24"}])[0] == 2
    assert "key 'aime-24' is missing" in capsys.readouterr().err
    assert table(rows=[])[0] == 2
    assert capsys.readouterr().err.count("\n") == 1
    stranger = {**_row(tmp_path, 0, RUNS[1], 0), "tunable": "elsewhere.json"}
    assert table(rows=[stranger])[0] == 2
    assert "elsewhere.json is not among" in capsys.readouterr().err


def test_one_metric_a_benchmark(table, tmp_path, capsys):
    table()
    rows = [_row(tmp_path, index, run, 0) for index, run in enumerate(RUNS)]
    changed = rows[2]["metrics"]["gpqa"]
    metrics.write(changed, {**metrics.read(changed), "metric": "pass@4"})
    arguments = [
        "--metrics",
        *(p for r in rows for p in r["metrics"].values()),
        "--tunable",
        *(r["tunable"] for r in rows if r["tunable"]),
    ]
    settings = json.dumps({"digits": 1, "unit": "params", "rows": rows, "benchmarks": BENCHMARKS})
    outputs = ["--csv", str(tmp_path / "t.csv"), "--md", str(tmp_path / "t.md"), "--settings", settings]
    assert main(["table1", *arguments, *outputs]) == 2
    assert "'gpqa' is accuracy in run 'a-io' but pass@4 in run 'b-cot'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (12_345, "12.3K"), (999_999, "1M"), (104_612_864, "105M"), (1_543_710_000, "1.54B")],
)
def test_short_count(number, text):
    assert short_count(number) == text


def test_budget_names_its_unit():
    assert budget(0.0987, "params") == "9.87 % of candidate parameters"
    assert budget("0.1", "modules") == "10 % of candidate modules"
    assert budget(105e6, "absolute") == "105M parameters"


def test_latex_holds_the_same_numbers(table, tmp_path):
    _, rows, _ = table()
    text = (tmp_path / "t.tex").read_text()
    for row in rows:
        assert f" & {row['math-500 pass@1']} & {row['gpqa accuracy']} & {row['mean']} " in text
        assert f"[{row['gpqa low']}, {row['gpqa high']}]" in text
    assert (tmp_path / "t.tex.manifest.json").exists()
