"""The budgets table: arithmetic of the real shapes, the greedy selection behind every row, sentences that follow the numbers."""

import csv
import json
import statistics

import pytest
import torch
import yaml

from hybrid_lora.allocation import budgets, budgets_text, shapes
from hybrid_lora.allocation.__main__ import main

SETTINGS = {"ratio": 0.1, "absolute": None, "overflow": "stop", "lora": {"rank": 16}}
# Qwen2.5's arithmetic, in millions: all parameters, weights of the candidate linears, LoRA r16 on all, attention's weights.
ARITHMETIC = {
    "0.5B": ("494.03", "357.83", "8.80", "44.04"),
    "1.5B": ("1543.71", "1310.20", "18.46", "154.14"),
    "3B": ("3085.94", "2774.53", "29.93", "339.74"),
    "7B": ("7615.62", "6525.29", "40.37", "822.08"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(CSV rows as dicts of text, Markdown text, the folder) of the command with the paper's settings."""
    folder = tmp_path_factory.mktemp("budgets")
    assert command(folder) == 0
    return read(folder), (folder / "b.md").read_text(), folder


def read(folder):
    with open(folder / "b.csv") as file:
        return list(csv.DictReader(file))


def command(folder, **change):
    settings = json.dumps({**SETTINGS, **change})
    return main(["budgets", "--csv", str(folder / "b.csv"), "--md", str(folder / "b.md"), "--settings", settings])


def pick(rows, shape, placement, unit="", order=""):
    (row,) = [r for r in rows if (r["shape"], r["placement"], r["unit"], r["order"]) == (shape, placement, unit, order)]
    return row


def millions(number):
    return f"{number / 1e6:.2f}"


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_arithmetic_of_the_shapes(name, table):
    modules, total = shapes.build(name)
    weights = {m["module"]: m["in_features"] * m["out_features"] for m in modules}
    attention = sum(weights[m["module"]] for m in modules if m["type"] in "qkvo")
    lora = int(pick(table[0], name, "lora")["tunable_params"])
    assert tuple(map(millions, (total, sum(weights.values()), lora, attention))) == ARITHMETIC[name]
    # Qwen2 has biases on q, k and v alone, and they count.
    for m in modules:
        assert m["params"] - weights[m["module"]] == (m["out_features"] if m["type"] in ("q", "k", "v") else 0)


def test_no_weights_are_made(monkeypatch):
    made = []
    empty = torch.nn.Module.register_parameter

    def register(self, name, parameter):
        made.append(parameter.device.type if parameter is not None else "meta")
        return empty(self, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", register)
    shapes.build("7B")
    assert set(made) == {"meta"}


def test_every_row_is_there_and_adds_up(table):
    rows, _, folder = table
    expected = {
        (shape, "hybrid", unit, order)
        for shape in shapes.SHAPES
        for unit in ("params", "modules", "absolute")
        for order in ("smallest", "largest", "random", "figure-2")
        if (shape, unit) != ("0.5B", "absolute")  # the paper has no count to work back from
    }
    expected |= {(shape, placement, "", "") for shape in shapes.SHAPES for placement in ("full-ft", "lora", "lora-ffn")}
    assert {(r["shape"], r["placement"], r["unit"], r["order"]) for r in rows} == expected and len(rows) == len(expected)
    for row in rows:
        assert int(row["fft_params"]) + int(row["lora_params"]) == int(row["tunable_params"])
        if row["placement"] == "hybrid":
            used = int(row["modules_full"]) if row["unit"] == "modules" else int(row["fft_params"])
            whole = {"params": int(row["candidate_params"]), "modules": int(row["candidates"]), "absolute": 1}[row["unit"]]
            assert 0 < used <= float(row["amount"]) * whole + 1e-6
    for name in ("b.csv", "b.md"):
        about = json.loads((folder / f"{name}.manifest.json").read_text())
        assert about["settings"] == SETTINGS and any("select.py" in path for path in about["code"])


def test_counts_by_hand_at_1_5b(table):
    """k and v: 393,472; q: 2,360,832; o: 2,359,296; FFN: 13,762,560. 10 % of 196 modules are 19."""
    rows, _, _ = table
    kv, q, o, ffn = 393_472, 2_360_832, 2_359_296, 13_762_560
    full = {order: int(pick(rows, "1.5B", "hybrid", "modules", order)["fft_params"]) for order in budgets_text.ORDERS}
    assert full["smallest"] == 19 * kv and full["largest"] == 19 * ffn
    assert full["figure-2"] == 4 * (q + 2 * kv + o) + q + 2 * kv  # four layers from the top, then q, k, v of the fifth
    assert full["smallest"] < full["random"] < full["largest"]
    assert pick(rows, "1.5B", "hybrid", "params", "largest")["modules_full"] == "9"  # 131.0 M hold nine FFN modules
    assert float(pick(rows, "1.5B", "hybrid", "absolute", "largest")["amount"]) == 105e6 - 18_464_768
    assert int(pick(rows, "1.5B", "lora-ffn")["fft_params"]) == 28 * (q + 2 * kv + o)
    assert int(pick(rows, "1.5B", "full-ft")["tunable_params"]) == 1_543_714_304
    assert pick(rows, "1.5B", "lora-ffn")["paper_params"] == "122000000"
    assert pick(rows, "7B", "hybrid", "params", "random")["paper_params"] == "449000000"


def test_random_is_the_median_of_distinct_seeded_orders(table):
    modules, _ = shapes.build("0.5B")
    rankings = budgets.orders("0.5B", modules)["random"]
    assert len(rankings) == 101 and len({tuple(r) for r in rankings}) == 101
    assert all(sorted(r) == list(range(1, 169)) for r in rankings)
    assert rankings == budgets.orders("0.5B", modules)["random"]
    totals = []
    for ranks in rankings:
        first = [m for _, m in sorted(zip(ranks, modules), key=lambda pair: pair[0])][:16]  # 10 % of 168 modules
        full = {m["module"] for m in first}
        lora = sum(16 * (m["in_features"] + m["out_features"]) for m in modules if m["module"] not in full)
        totals.append(sum(m["params"] for m in first) + lora)
    assert int(pick(table[0], "0.5B", "hybrid", "modules", "random")["tunable_params"]) == statistics.median(totals)


def test_figure_2_goes_from_the_last_attention_up():
    modules, _ = shapes.build("0.5B")
    (ranks,) = budgets.orders("0.5B", modules)["figure-2"]
    named = [(m["layer"], m["type"]) for _, m in sorted(zip(ranks, modules), key=lambda pair: pair[0])]
    assert named[:5] == [(23, "q"), (23, "k"), (23, "v"), (23, "o"), (22, "q")]
    assert named[95:98] == [(0, "o"), (23, "gate"), (23, "up")]


def test_overflow_is_the_settings(table, tmp_path):
    assert command(tmp_path, overflow="skip") == 0
    rows = read(tmp_path)
    stop, skip = (pick(r, "7B", "hybrid", "absolute", "random") for r in (table[0], rows))
    assert int(skip["fft_params"]) > int(stop["fft_params"])
    assert "goes on to smaller ones" in (tmp_path / "b.md").read_text()


def test_a_given_limit_holds_for_every_shape(tmp_path, capsys):
    assert command(tmp_path, absolute=50_000_000) == 0
    rows = read(tmp_path)
    assert [r["amount"] for r in rows if r["unit"] == "absolute"] == ["50000000"] * 16
    assert capsys.readouterr().out == (tmp_path / "b.md").read_text()  # printed, too


def test_sentences_at_the_papers_settings(table):
    text = table[1]
    assert "at all of 1.5B, 3B, 7B: none." in text
    assert "So no single reading of 10 % fits both" in text
    assert "(6.7 % of parameters, 32.7 % of modules, 104.09 M)" in text
    assert "LoRA-FFN at 1.5B has 168.30 M, the paper's count is 122.00 M; the attention modules alone are 154.20 M" in text
    assert "1.5B Full-FT; 3B Full-FT" in text  # 1,543.7 and 3,085.9 against 1544 and 3086


def rows_like(**off):
    """Rows of one reading each, `off` by a share from a paper's count of 100 M at two sizes."""
    keys = dict.fromkeys(budgets_text.COLUMNS)
    for reading, share in off.items():
        unit, order = reading.replace("fig", "figure-2").split("_")
        for shape in ("1.5B", "3B"):
            count = {"tunable_params": 1e8 * (1 + share), "paper_params": 1e8, "off": share, "fft_params": 9e7}
            yield {
                **keys,
                **count,
                "shape": shape,
                "placement": "hybrid",
                "unit": unit,
                "order": order,
            }


@pytest.mark.parametrize(
    ("off", "conclusion"),
    [
        ({"params_fig": 0.019, "modules_fig": 0.5}, "So 10 % as a share of parameters fits both"),
        ({"params_fig": -0.021, "modules_fig": -0.02}, "So 10 % as a share of modules fits both"),
        ({"params_fig": 0.021, "params_smallest": 0.0}, "So no single reading of 10 % fits both"),
        ({"params_fig": 0.5, "absolute_fig": 0.0}, "So no single reading of 10 % fits both"),  # a limit is no share
    ],
)
def test_sentences_follow_the_numbers(off, conclusion):
    text = "\n".join(budgets_text.sentences(list(rows_like(**off)), [], SETTINGS))
    assert conclusion in text
    assert ("share of parameters, smallest modules first." in text) == ("params_smallest" in off)


def test_no_preset_is_fitted_to_the_paper(repo):
    """The table's last sentence: no configuration of ours counts its budget in parameters."""
    for path in sorted((repo / "config").rglob("*.yaml")):
        allocation = (yaml.safe_load(path.read_text()) or {}).get("allocation") or {}
        assert allocation.get("unit") != "absolute", path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 0}, "key 'ratio' is 0; allowed: a share above 0 and at most 1"),
        ({"ratio": "0.1"}, "key 'ratio' is '0.1'; allowed: a share"),
        ({"ratio": float("nan")}, "key 'ratio' is nan"),
        ({"absolute": 0}, "key 'absolute' is 0; allowed: a number of parameters, 1 or more"),
        ({"absolute": True}, "key 'absolute' is True"),
        ({"overflow": "halt"}, "key 'overflow' is 'halt'; allowed: stop, skip"),
        ({"lora": {"rank": 0}}, "key 'lora.rank' is 0"),
        ({"lora": None}, "key 'lora.rank' is None"),
        ({"lora": {"rank": 16, "alpha": 32}}, "unknown key 'alpha'; allowed: rank"),
        ({"ratios": 1}, "unknown key 'ratios'; allowed: ratio, absolute, overflow, lora"),
    ],
)
def test_bad_settings_are_one_line(change, message, tmp_path, capsys):
    assert command(tmp_path, **change) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


def test_a_missing_key_is_named(tmp_path, capsys):
    outputs = ["--csv", str(tmp_path / "b.csv"), "--md", str(tmp_path / "b.md")]
    assert main(["budgets", *outputs, "--settings", '{"ratio": 0.1}']) == 2
    assert "key 'absolute' is missing; needed are ratio, absolute, overflow, lora" in capsys.readouterr().err
