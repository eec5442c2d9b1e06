import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_lora.config.patterns import exactly

NAMES = st.sets(st.text("ab-._1]^", min_size=1, max_size=6), max_size=30)


@given(NAMES, st.text("ab-._1]^", max_size=7))
def test_matches_the_names_and_no_other(names, other):
    pattern = re.compile(exactly(names))
    assert all(pattern.fullmatch(name) for name in names)
    assert bool(pattern.fullmatch(other)) == (other in names)


def test_nothing_matches_no_name():
    assert not re.fullmatch(exactly([]), "")


@pytest.mark.parametrize("kind", ["grpo", "gspo"])
def test_runs_of_a_sweep_are_short(kind):
    names = [f"{model}-{kind}-{method}-seed{seed}" for model in "137" for method in ("lora", "hybrid") for seed in range(5)]
    assert len(exactly(names)) < 60
