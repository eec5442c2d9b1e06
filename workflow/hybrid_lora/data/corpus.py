"""A corpus as train and validation parquet files.

Rows are read twice: once to choose (ids, lengths, a hash of the prompt), once to write the chosen ones, so a hub corpus
of gigabytes never lies in memory as a whole. Validation is split off by problem: all rows of one problem fall on one side,
whatever the case and the blanks of their prompts. A column `problem` in the source says what the problem is; without one it
is the prompt. Rows that share text with a benchmark's problem are left out where the settings ask for it (`decontaminate`).
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
from hybrid_lora.contracts.corpus_names import HUB_ROWS
from hybrid_lora.data import corpus_formats, ngrams, overlap, sources
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


def run(settings, train, val, source=None, benchmarks=()):
    """Write `train` and `val` (contracts.corpus) and their manifests.

    settings: one entry of the configuration's `corpora`, with decontaminate: {n, share} or absent, and optionally rows and
    split_by (problem, the default, or prompt: rows of equal prompts alone fall on one side);
    source: the local file, where settings.data is a path; benchmarks: files of the benchmarks that decontaminate looks at.
    """
    checks.check(settings, KEYS, corpus_formats.FORMATS)
    wanted = checks.number(settings, "validation_rows")
    limit = checks.number(settings, "max_rows", least=1, none=True)
    index = _index(settings, benchmarks)
    raw = _raw(settings, source)
    _whole(raw, settings)
    entries, left_out, shared = _choose(raw, settings, index)
    held, kept = split(entries, wanted, settings["seed"], raw.place)
    same = len(entries) - len(held) - len(kept)
    facts = {"rows_read": len(raw.rows), "over_max_tokens": left_out, "same_prompt_left_out": same}
    if index:
        facts["overlapping_left_out"] = shared
    for path, chosen in ((train, kept[:limit]), (val, held)):
        contract.write(path, _table(raw, chosen, settings), {"format": settings["format"]})
        closure = code.sources("hybrid_lora.data.corpus")
        inputs = {**raw.inputs, **({"benchmarks": list(benchmarks)} if index else {})}
        manifest.write_beside(path, "data.corpus", settings, inputs, closure, rows=len(chosen), **facts, **raw.facts)
    lengths = f"{left_out} of more than {settings['max_tokens']} tokens left out, " if settings["max_tokens"] else ""
    lengths += f"{shared} left out for sharing text with a benchmark, " if index else ""
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
    held = ordered[:wanted]  # rows of one problem stand together: shuffled below, so that a batch holds several
    taken = {entry.problem for entry in held}
    kept = [entry for entry in entries if entry.problem not in taken]
    if len(held) < wanted or not kept:
        raise UserError(
            f"{place}: {len(entries)} usable rows leave none to train on; settings.validation_rows is {wanted}, allow fewer"
        )
    random.Random(seeds.derive(seed, "order of training")).shuffle(kept)
    random.Random(seeds.derive(seed, "order of validation")).shuffle(held)
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


def _index(settings, benchmarks):
    """The benchmarks' n-grams where the settings ask to leave out what shares them, else None."""
    wanted = settings.get("decontaminate")
    if not wanted:
        return None
    n = checks.number(wanted if isinstance(wanted, dict) else {}, "n", least=1, within="settings.decontaminate")
    checks.share(wanted, "share", within="settings.decontaminate")
    if not benchmarks:
        raise UserError("settings: decontaminate is on, but no benchmark is given (--benchmarks)")
    return ngrams.Index(benchmarks, n)


def _whole(raw, settings):
    """UserError where the source does not hold as many rows as the settings or its publisher say."""
    hub = settings.get("hub") if settings["data"] == "hub" else {}
    known = HUB_ROWS.get((hub.get("repo"), hub.get("config"))) if hub else None
    for where, expected in (("settings.rows", checks.number(settings, "rows", least=1, none=True)), ("the published set", known)):
        if expected is not None and len(raw.rows) != expected:
            raise UserError(f"{raw.place}: has {len(raw.rows)} rows, {where} says {expected}")


def _choose(raw, settings, index):
    """(entries of the rows that are used, number of rows that are too long, number that share text with a benchmark)."""
    longest = checks.number(settings, "max_tokens", least=1, none=True)
    entries, seen, left_out, shared = [], Counter(), 0, 0
    for i in range(len(raw.rows)):
        row = raw.rows[i]
        made = _made(raw, i, settings, row)
        if longest is not None and made["num_tokens"] is not None and made["num_tokens"] > longest:
            left_out += 1
            continue
        if index and index.find(overlap.prompt(made["messages"]), settings["decontaminate"]["share"]):
            shared += 1
            continue
        digest = files.sha256_json(made["messages"])[:16]
        name = f"{digest}-{seen[digest]}" if seen[digest] else digest
        seen[digest] += 1
        key = _prompt if settings.get("split_by") == "prompt" else _problem
        entries.append(Entry(i, name, key(row, made["messages"][:-1], settings["seed"])))
    return entries, left_out, shared


def _prompt(row, prompt, seed):
    return _number(f"{seed}\x1f" + "\x1f".join(message["content"] for message in prompt))


def _problem(row, prompt, seed):
    own = row.get("problem")
    words = [own] if isinstance(own, str) else [message["content"] for message in prompt]
    return _number(f"{seed}\x1f" + "\x1f".join(map(ngrams.plain, words)))


def _number(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _made(raw, i, settings, row=None):
    return corpus_formats.conversation(
        raw.rows[i] if row is None else row, settings["format"], settings["prompt"], f"{raw.place}: row {i + 1}"
    )


def _table(raw, entries, settings):
    """A Table in chunks: one Arrow array of texts holds no more than 2 GiB, less than the hub's corpus."""
    batches = []
    for start in range(0, len(entries), CHUNK):
        chunk = [{"id": entry.id, **_made(raw, entry.index, settings)} for entry in entries[start : start + CHUNK]]
        batches.append(pa.RecordBatch.from_pylist(chunk, schema=contract.SCHEMA))
    return pa.Table.from_batches(batches, schema=contract.SCHEMA)
