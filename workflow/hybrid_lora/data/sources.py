"""Raw rows, just as their source has them: from a local json, jsonl, csv or parquet file, or from the Hugging Face hub.

Messages name places (file, line, column) and never quote a row: GPQA's authors ask that no question appears in plain text.
"""

import csv
import gzip
import json
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_lora.common.errors import UserError

ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".json.gz", ".jsonl.gz", ".csv.gz")


@dataclass
class Raw:
    """Rows (indexable, dicts), the place they came from for messages, input files and facts for the manifest."""

    rows: object
    place: str
    inputs: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


def external(settings, source=None):
    """Raw rows of a hub data set (settings.data is `hub`) or of the file `source` (default: settings.data)."""
    if settings["data"] == "hub":
        if source is not None:
            raise UserError(f"{source}: --source is given, but settings.data is 'hub'")
        return from_hub(settings.get("hub"))
    path = Path(source or settings["data"])
    return Raw(from_file(path), str(path), {"source": path})


def from_file(path):
    """List of dicts. UserError on a missing, truncated or malformed file."""
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise UserError(f"{path}: unknown kind of file, allowed endings: {', '.join(ENDINGS)}")
    try:
        if name.endswith(".parquet"):
            rows = _parquet(path)
        else:
            opened = gzip.open if name.endswith(".gz") else open
            with opened(path, "rt", encoding="utf-8-sig", newline="" if ".csv" in name else None) as file:
                rows = _text(file, name.removesuffix(".gz"), path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged gzip file ({error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    return _objects(rows, path)


def _text(file, name, path):
    if name.endswith(".csv"):
        return _csv(file, path)
    if name.endswith(".jsonl"):
        return [_parse(line, f"{path}: line {i}") for i, line in enumerate(file, 1) if line.strip()]
    return _parse(file.read(), f"{path}")


def _csv(file, path):
    csv.field_size_limit(sys.maxsize)  # texts may be longer than the default of 128 KiB
    try:
        rows = list(csv.DictReader(file, strict=True))  # strict: a file that ends within quotes is cut off
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file, or cut off ({error})") from None
    for i, row in enumerate(rows, 1):
        if None in row:  # where DictReader puts fields beyond the header
            raise UserError(f"{path}: row {i} has more fields than the header")
        if None in row.values():  # what it gives for fields that a row lacks
            raise UserError(f"{path}: row {i} has fewer fields than the header; is the file cut off?")
    return rows


def _parse(text, where):
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply") from None
    if re.search(r"\\u[dD][89a-fA-F]", text):
        _refuse_halves(value, where)
    return value


def _refuse_halves(value, where):
    """UserError where a text holds half of a surrogate pair, which is no character and which no file can take."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: a text holds half of a surrogate pair (\\ud800 to \\udfff), which is not Unicode") from None


def _parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, partitioning=None).to_pylist()
    except pa.ArrowException:
        raise UserError(f"{path}: not a readable Parquet file (truncated?)") from None


def _objects(rows, path):
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a JSON {type(rows).__name__}, expected an array of objects (one a line: .jsonl)")
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {i} is a {type(row).__name__}, expected an object")
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def from_hub(hub):
    """Raw rows of the hub data set {repo, revision, config, split}; memory-mapped, so a row is read when it is used."""
    missing = [key for key in ("repo", "revision", "config", "split") if not (hub or {}).get(key)]
    if missing:
        raise UserError(f"settings: data is 'hub', but hub.{missing[0]} is missing (needed: repo, revision, config, split)")
    import datasets

    datasets.disable_progress_bars()
    place = f"hub data set {hub['repo']} ({hub['config']}, {hub['split']}, revision {hub['revision']})"
    try:
        rows = datasets.load_dataset(hub["repo"], hub["config"], split=hub["split"], revision=hub["revision"])
    except Exception as error:  # the hub's client raises dozens of kinds: offline, gated, no such config, changed columns
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        if _quotes_data(error):
            reason = "its rows do not have the types of its columns"
        raise UserError(f"{place}: cannot be loaded ({type(error).__name__}: {reason})") from None
    commit = _commit(rows)
    # Offline, datasets takes whichever revision was used last.
    if re.fullmatch(r"[0-9a-f]{40}", hub["revision"]) and commit not in (None, hub["revision"]):
        raise UserError(f"{place}: the cache holds revision {commit}; fetch the other one with `snakemake stage`, online")
    return Raw(rows, place, facts={"hub_commit": commit})


def _quotes_data(error):
    import pyarrow as pa

    return isinstance(error, pa.ArrowException)  # "Failed to parse string: ..." gives a value


def _commit(rows):
    """The commit that `revision` stood for, read off the downloaded files' addresses or the cache's; None for a local folder."""
    cached = [file["filename"] for file in rows.cache_files]
    for address in [*(rows.info.download_checksums or {}), *cached]:
        if found := re.search(r"@([0-9a-f]{40})/|/([0-9a-f]{40})/[^/]+\.arrow$", address):
            return found[1] or found[2]
    return None
