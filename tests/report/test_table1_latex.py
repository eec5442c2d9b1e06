"""The LaTeX table: numbers of the files, one cell a column, nothing that LaTeX would read as a command."""

import re

import pytest

from hybrid_lora.report import table1_latex

BENCHMARKS = [
    {"name": "math-500", "title": "Math-500", "metric": "pass@1"},
    {"name": "a_b", "title": "a_b", "metric": "accuracy"},
]


def row(run, model, placement="LoRA", budget=None):
    results = {b["name"]: {"value": 0.125, "low": 0.0625, "high": 0.25} for b in BENCHMARKS}
    return {
        "run": run,
        "model": model,
        "approach": "GSPO",
        "placement": placement,
        "budget": budget,
        "tunable": 12_345,
        "results": results,
        "mean": 0.5,
    }


@pytest.fixture
def text():
    rows = [row("lora_1", "m_1"), row("hybrid", "m_1", "Hybrid-LoRA", "10 % of candidate parameters"), row("other", "m&2")]
    return table1_latex.render(rows, BENCHMARKS, 1, ["a note"])


def test_every_line_has_all_cells(text):
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(body) == 2 + 2 * 3
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {5}
    assert text.startswith("% a note\n") and r"\begin{tabular}{llrrrr}" in text and text.endswith("\\end{tabular}\n")


def test_numbers_and_intervals(text):
    assert r"GSPO & Hybrid-LoRA (10 \% of candidate parameters) & 12.3K & 12.5 & 12.5 & 50.0 \\" in text
    assert text.count(r"{\scriptsize [6.2, 25.0]}") == 6


def test_models_head_their_blocks(text):
    assert text.index(r"\textbf{m\_1}") < text.index(r"lora\_1") < text.index(r"\textbf{m\&2}") < text.index(" other}")
    assert text.count(r"\midrule") == 2


def test_special_characters_are_escaped():
    assert table1_latex.escape(r"a_b & 5% $x$ #1 {y} ~ ^ \z") == (
        r"a\_b \& 5\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )


def test_braces_balance(text):
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
