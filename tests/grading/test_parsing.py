"""Parsing in many threads, as the graders' workers do it."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_lora.grading.parsing import parse


@pytest.fixture
def collector_lets_other_threads_run():
    def anything(*_):
        return None

    interval = sys.getswitchinterval()
    gc.callbacks.append(anything)
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)
    gc.callbacks.remove(anything)


@pytest.mark.usefixtures("collector_lets_other_threads_run")
def test_threads_do_not_disturb_each_other():
    source = "def check(candidate):\n" + "".join(f"    assert candidate(a=[{i}, [{i}, ({i}, -1)]]) == {i}\n" for i in range(300))
    with ThreadPoolExecutor(3) as pool:
        trees = list(pool.map(parse, [source] * 60))
    assert {len(tree.body[0].body) for tree in trees} == {300}


def test_what_is_no_python_raises():
    with pytest.raises(SyntaxError):
        parse("def check(")
    with pytest.raises(SyntaxError):
        parse("a = 1", mode="eval")
