"""A corpus as train and validation parquet files.

Rows are read twice: once to choose (ids, lengths, a hash of the prompt), once to write the chosen ones, so a hub corpus
of gigabytes never lies in memory as a whole. Validation is split off by problem: all rows of one prompt fall on one side.
"""

import hashlib
import random
import sys
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from hybrid_lora.common import code, files, manifest, seeds
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus as contract
from hybrid_lora.data import corpus_formats, sources
from hybrid_lora.data import settings as checks
from hybrid_lora.data.generated import corpus_rows

CHUNK = 2000  # rows
KEYS = ("format", "data", "prompt", "validation_rows", "max_rows", "max_tokens", "seed")


@dataclass(frozen=True)
class Entry:
    """One usable row: where it stands in the source, its id and the hash of its problem."""

    index: int
    id: str
    problem: int


def run(settings, train, val, source=None):
    """Write `train` and `val` (contracts.corpus) and their manifests.

    settings: one entry of the configuration's `corpora`; source: the local file, where settings.data is a path.
    """
    checks.check(settings, KEYS, corpus_formats.FORMATS)
    wanted = checks.number(settings, "validation_rows")
    limit = checks.number(settings, "max_rows", least=1, none=True)
    raw = _raw(settings, source)
    entries, left_out = _choose(raw, settings)
    held, kept = split(entries, wanted, settings["seed"], raw.place)
    same = len(entries) - len(held) - len(kept)
    facts = {"rows_read": len(raw.rows), "over_max_tokens": left_out, "same_prompt_left_out": same}
    for path, chosen in ((train, kept[:limit]), (val, held)):
        contract.write(path, _table(raw, chosen, settings), {"format": settings["format"]})
        closure = code.sources("hybrid_lora.data.corpus")
        manifest.write_beside(path, "data.corpus", settings, raw.inputs, closure, rows=len(chosen), **facts, **raw.facts)
    lengths = f"{left_out} of more than {settings['max_tokens']} tokens left out, " if settings["max_tokens"] else ""
    print(
        f"corpus from {raw.place}: {len(raw.rows)} rows read, {lengths}{same} left out for sharing a prompt with validation, "
        f"{len(kept[:limit])} to train on, {len(held)} to validate on",
        file=sys.stderr,
    )


def split(entries, wanted, seed, place):
    """(validation, train): whole prompts in the order of a seeded hash until `wanted` rows, the rest shuffled.

    Rows of the last validation prompt beyond `wanted` go to neither side, so that no prompt is in both.
    """
    ordered = sorted(entries, key=lambda entry: (entry.problem, entry.index))
    held = ordered[:wanted]
    taken = {entry.problem for entry in held}
    kept = [entry for entry in entries if entry.problem not in taken]
    if len(held) < wanted or not kept:
        raise UserError(
            f"{place}: {len(entries)} usable rows leave none to train on; settings.validation_rows is {wanted}, allow fewer"
        )
    random.Random(seeds.derive(seed, "order of training")).shuffle(kept)
    return held, kept


def _raw(settings, source):
    checks.number(settings, "seed")
    if settings["data"] != "generated":
        return sources.external(settings, source)
    if source is not None:
        raise UserError(f"{source}: --source is given, but settings.data is 'generated'")
    if settings["format"] != "mixture-of-thoughts":
        raise UserError(f"settings: data is 'generated', format is '{settings['format']}', allowed: mixture-of-thoughts")
    return sources.Raw(corpus_rows.rows(settings.get("generated") or {}), "generated conversations")


def _choose(raw, settings):
    """(entries of the rows that are short enough, number of rows that are not)."""
    longest = checks.number(settings, "max_tokens", least=1, none=True)
    entries, seen, left_out = [], Counter(), 0
    for i in range(len(raw.rows)):
        made = _made(raw, i, settings)
        if longest is not None and made["num_tokens"] is not None and made["num_tokens"] > longest:
            left_out += 1
            continue
        digest = files.sha256_json(made["messages"])[:16]
        name = f"{digest}-{seen[digest]}" if seen[digest] else digest
        seen[digest] += 1
        entries.append(Entry(i, name, _problem(made["messages"][:-1], settings["seed"])))
    return entries, left_out


def _problem(prompt, seed):
    text = f"{seed}\x1f" + "\x1f".join(message["content"] for message in prompt)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _made(raw, i, settings):
    return corpus_formats.conversation(raw.rows[i], settings["format"], settings["prompt"], f"{raw.place}: row {i + 1}")


def _table(raw, entries, settings):
    """A Table in chunks: one Arrow array of texts holds no more than 2 GiB, less than the hub's corpus."""
    batches = []
    for start in range(0, len(entries), CHUNK):
        chunk = [{"id": entry.id, **_made(raw, entry.index, settings)} for entry in entries[start : start + CHUNK]]
        batches.append(pa.RecordBatch.from_pylist(chunk, schema=contract.SCHEMA))
    return pa.Table.from_batches(batches, schema=contract.SCHEMA)
