"""Benchmark: scores from the dumps of a 7B model with K = 1,000 validation batches; CPU only.

    python tests/benchmarks/aggregate_scores.py [--shape 7B] [--partitions 1000] [--batches-per-chunk 5]

Writes dumps of the shape's 196 modules, r = 16, random numbers, 200 chunk files, into a temporary folder; then times the
command `scores aggregate` as a process of its own, imports included, and reads its peak memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from hybrid_lora.allocation import shapes
from hybrid_lora.contracts import modules, sensitivity
from hybrid_lora.contracts.sensitivity import SCHEMA

RANK = 16


def write_dumps(folder, listed, partitions, size):
    """The chunk files, as `probe sensitivity` writes them."""
    random, paths = np.random.default_rng(0), []
    identity = {"id": "7b", "revision": None, "architecture_sha256": "0" * 64}
    modules.write(folder / "modules.json", identity, 1, listed)
    for chunk in range(partitions // size):
        count = size * len(listed) * RANK
        columns = {
            "batch": np.repeat(np.arange(chunk * size, (chunk + 1) * size, dtype=np.int32), len(listed) * RANK),
            "module": np.tile(np.repeat(np.array([m["module"] for m in listed], object), RANK), size),
            "layer": np.tile(np.repeat(np.array([m["layer"] for m in listed], np.int32), RANK), size),
            "type": np.tile(np.repeat(np.array([m["type"] for m in listed], object), RANK), size),
            "component": np.tile(np.arange(RANK, dtype=np.int32), size * len(listed)),
            "active_pass": np.full(count, "A", object),
            "e": random.normal(size=count).astype(np.float32),
            "grad": random.normal(size=count).astype(np.float32),
            "loss_a": np.full(count, 1.0),
            "loss_b": np.full(count, 1.0),
            "tokens": np.full(count, 8192, np.int64),
        }
        paths.append(folder / f"chunk-{chunk:03d}.parquet")
        sensitivity.write(paths[-1], pa.table(columns, schema=SCHEMA), {"model": identity, "warmup_sha256": "w"})
    return paths


def main():
    """Print seconds and peak memory of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="7B")
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--batches-per-chunk", type=int, default=5)
    arguments = parser.parse_args()
    listed, _ = shapes.build(arguments.shape)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        dumps = write_dumps(folder, listed, arguments.partitions, arguments.batches_per_chunk)
        settings = {"criterion": "hybrid", "model": "7b", "probe": "default", "batches": arguments.partitions}
        command = [sys.executable, "-m", "hybrid_lora.scores", "aggregate", "--modules", folder / "modules.json"]
        command += ["--dumps", *dumps, "--out", folder / "out.parquet", "--settings", json.dumps(settings)]
        began = time.monotonic()
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        taken = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    rows = arguments.partitions * len(listed) * RANK
    print(f"{rows:,} rows in {len(dumps)} dumps: {taken:.2f} s, peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
