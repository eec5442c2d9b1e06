"""results/evaluation/{run}/{benchmark}/metrics.json: one benchmark's result of one run.

value, low, high are shares in [0, 1] (95 % interval by bootstrap over problems); n problems, `samples` completions per
problem, pass@`k`; truncated and unjudged count completions.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json

KEYS = ("metric", "value", "low", "high", "n", "k", "samples", "truncated", "unjudged")


def write(path, record):
    """record: dict with at least KEYS."""
    missing = [k for k in KEYS if k not in record]
    if missing:
        raise ValueError(f"metrics record lacks {missing}")
    write_json(path, record)


def read(path):
    """The record as a dict."""
    record = read_json(path)
    missing = [k for k in KEYS if k not in record]
    if missing:
        raise UserError(f"{path}: key '{missing[0]}' is missing; not a file of evaluation metrics")
    return record
