"""What two runs of the same configuration must agree on: everything in results/ but times, memory, device and logs."""

import json

import pyarrow.parquet as pq

APART = ("logs", "benchmarks", ".state")  # folders of results/
# Columns, beside those that begin with time_.
TIMES = ("elapsed_s", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "memory_gib")
# Of a manifest: what was made, from what, by what. Its hashes of files that hold times or lists without order are left out.
MANIFEST = ("schema_version", "stage", "settings", "settings_sha256", "code", "packages", "python")
SETS = ("target_modules", "modules_to_save")  # PEFT writes these sets in any order


def files(results):
    """{path relative to results/: path} of all artifacts; a half-written file has a name of its own and would be found too."""
    found = {str(p.relative_to(results)): p for p in sorted(results.rglob("*")) if p.is_file()}
    return {name: path for name, path in found.items() if name.split("/")[0] not in APART}


def content(path):
    """What counts of one artifact, comparable with ==."""
    if path.name.endswith("manifest.json"):
        manifest = json.loads(path.read_text())
        named = {key: sorted(manifest[key]) for key in ("inputs", "outputs")}
        return {**{key: manifest[key] for key in MANIFEST}, **named}
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        times = [name for name in table.column_names if name in TIMES or name.startswith("time_")]
        return table.drop_columns(times).to_pylist(), table.schema
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        if path.name == "adapter_config.json":
            value |= {key: sorted(value[key]) for key in SETS if isinstance(value.get(key), list)}
        return value
    return path.read_bytes()


def differences(one, other):
    """Names of the artifacts that differ between two results/ folders, or that only one of them has."""
    ours, theirs = files(one), files(other)
    shared = ours.keys() & theirs.keys()
    return sorted((ours.keys() ^ theirs.keys()) | {name for name in shared if content(ours[name]) != content(theirs[name])})
