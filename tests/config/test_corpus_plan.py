"""Decontamination in the configuration: off, a corpus depends on no benchmark; on, on all that runs are evaluated on."""

from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load
from hybrid_lora.config.plan import Plan

REPO = Path(__file__).resolve().parents[2]
FILES = ["results/data/benchmarks/gpqa.parquet", "results/data/benchmarks/math-500.parquet"]


def plan(**corpus):
    values = layers.merge(layers.read_yaml(REPO / "config/config.yaml"), layers.read_yaml(REPO / "config/demo.yaml"))
    changed = {"corpora": {"demo": corpus}, "evaluation": {"benchmarks": ["gpqa", "math-500"]}}
    return Plan(load(layers.merge(values, changed), ["config/config.yaml", "config/demo.yaml"], REPO), REPO)


def test_off_by_default():
    found = plan()
    assert found.corpus_benchmarks("demo") == [] and not {"decontaminate", "rows"} & found.corpus("demo").keys()
    assert found.overlap("demo") == {"n": 13} and found.benchmark_files() == FILES


def test_overlap_is_reported_for_the_corpora_in_use():
    assert plan().overlap_files() == ["results/data/demo-pretraining/overlap.json", "results/data/demo/overlap.json"]


def test_on_by_setting():
    found = plan(decontaminate=True, overlap_words=8, overlap_share=0.5, rows=100)
    assert found.corpus_benchmarks("demo") == FILES and found.corpus_benchmarks("demo-pretraining") == []
    assert found.corpus("demo")["decontaminate"] == {"n": 8, "share": 0.5} and found.corpus("demo")["rows"] == 100
    assert found.overlap("demo") == {"n": 8} and found.overlap("demo-pretraining") == {"n": 13}


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ({"decontaminate": "yes"}, r"corpora.demo.decontaminate: is 'yes', must be true or false"),
        ({"overlap_words": 0}, r"corpora.demo.overlap_words: is 0, must be at least 1"),
        ({"overlap_share": 2}, r"corpora.demo.overlap_share: is 2, must be at most 1"),
        ({"rows": 0}, r"corpora.demo.rows: is 0, must be at least 1"),
    ],
)
def test_mistakes_are_one_line(corpus, said):
    with pytest.raises(UserError, match=said) as caught:
        plan(**corpus)
    assert "\n" not in str(caught.value)
