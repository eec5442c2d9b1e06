"""A small model's modules.json and score file in a folder."""

import pytest
from selections import RANKS, rows_of, write_modules, write_scores


@pytest.fixture
def files(tmp_path):
    rows = rows_of([10, 20, 60, 10], RANKS)
    write_modules(tmp_path, rows)
    write_scores(tmp_path, rows)
    return tmp_path
