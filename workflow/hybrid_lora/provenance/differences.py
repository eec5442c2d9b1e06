"""What a manifest says of a job against what the job would be today: settings, inputs, code, package versions."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_json
from hybrid_lora.provenance.records import RESULTS

ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """kind: setting | package | input | code | command | artifact; what: the dotted key or the path; text: all in words."""

    kind: str
    what: str
    text: str


def find(job, artifact, records):
    """Differences between the manifest of one output of `job` and today, most telling first; [] where all agrees.

    Inputs that are not there and have no manifest cannot be compared: see `unknown`.
    """
    try:
        about = records.of(artifact)
    except UserError as error:
        return [Difference("artifact", artifact, f"its manifest cannot be used: {error}")]
    if about is None:
        return [Difference("artifact", artifact, "it has no manifest, so nothing tells what it was made from")]
    if job.command and about["stage"] != job.command:
        return [Difference("command", job.command, f"it was made by {about['stage']}, now {job.command} makes it")]
    changed = [] if about["settings_sha256"] == sha256_json(job.settings) else settings(about["settings"], job.settings)
    return [*changed, *_inputs(about, job, records), *_code(about, job, records)]


def unknown(job, records):
    """Inputs of a job whose content nothing here tells: the file is missing and so is its manifest."""
    return [path for path in job.inputs if records.now(path) is None]


def settings(old, new):
    """Differences of two settings, key by key."""
    was, now = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in dict.fromkeys([*was, *now]) if was.get(key, ABSENT) != now.get(key, ABSENT)]
    return [_setting(key, was.get(key, ABSENT), now.get(key, ABSENT)) for key in sorted(changed, key=_natural)]


def _setting(key, was, now):
    kind, name = ("package", key.removeprefix("packages.")) if key.startswith("packages.") else ("setting", key)
    absent = "not used" if kind == "package" else "not set"
    return Difference(kind, name, f"{kind} {name}: was {_shown(was, absent)}, now {_shown(now, absent)}")


def _flat(value, key=""):
    """(dotted key, text of the value) of every leaf, text so that 1 and 1.0 and true differ as they do for Snakemake."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for position, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{position}]")
    else:
        yield key, json.dumps(value, ensure_ascii=False)


def _natural(key):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def _shown(value, absent):
    if value is ABSENT:
        return absent
    return value if len(value) <= 120 else f"{value[:80]} … {value[-30:]}"


def _inputs(about, job, records):
    old = {_relative(path): sha for paths in about["inputs"].values() for path, sha in paths.items()}
    # Sources outside results/ may lie elsewhere on each machine, and not every command records them: settings hold their hash.
    new = {path: records.now(path) for path in job.inputs if path in old or path.startswith(f"{RESULTS}/")}
    gone, added = [path for path in old if path not in new], [path for path in new if path not in old]
    moved = {new[path] for path in added} & {old[path] for path in gone}
    for path in old:
        if path in new and new[path] is not None and new[path] != old[path]:
            text = f"input {path}: its content is not what it was (sha256 was {old[path][:12]}, now {new[path][:12]})"
            yield Difference("input", path, text)
    for path in gone:
        if old[path] not in moved and path.startswith(f"{RESULTS}/"):
            yield Difference("input", path, f"input {path}: was read, now is not")
    for path in added:
        if new[path] not in moved:
            yield Difference("input", path, f"input {path}: was not read, now is")


def _relative(path):
    return os.path.relpath(path) if os.path.isabs(path) and Path(path).is_relative_to(Path.cwd()) else os.path.normpath(path)


def _code(about, job, records):
    old, new = about["code"], records.all_now(job.code)
    if old == new:
        return
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        if None in (was, now):
            text = f"code {name}: {'was not used, now is' if was is None else 'was used, now is not'}"
        else:
            text = f"code {name}: edited (sha256 was {was[:12]}, now {now[:12]})"
        yield Difference("code", name, text)
