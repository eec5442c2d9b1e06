"""results/allocation/{allocation}.json: which modules get full fine-tuning and which LoRA (Eq. 3-4)."""

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json

SCHEMA_VERSION = 1
KEYS = ("schema_version", "model", "probe", "criterion", "scores", "budget", "overflow", "ties", "fft", "lora", "counts")


def write(path, allocation):
    """allocation: dict with exactly KEYS; `fft` in order of selection, disjoint from `lora.names`."""
    if tuple(allocation) != KEYS:
        raise ValueError(f"allocation keys are {tuple(allocation)}, expected {KEYS}")
    write_json(path, allocation)


def read(path):
    """The allocation as a dict; UserError if it is of another format or its two sets overlap."""
    value = read_json(path)
    missing = [k for k in KEYS if not isinstance(value, dict) or k not in value]
    if missing:
        raise UserError(f"{path}: key '{missing[0]}' is missing; not an allocation file")
    if value["schema_version"] != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version is {value['schema_version']}, this version reads {SCHEMA_VERSION}")
    both = sorted(set(value["fft"]) & set(value["lora"]["names"]))
    if both:
        raise UserError(f"{path}: module '{both[0]}' is in both fft and lora.names; a module is in exactly one")
    return value
