"""Benchmark: what sending every job through Slurm costs over running them on this machine.

    python tests/benchmarks/slurm_overhead.py [--configfile config/demo.yaml] [--poll 15]     # as root, on Debian or Ubuntu

Brings up a Slurm of its own (tests/slurm/cluster.py) and runs the configuration twice from empty, locally with as many cores
as there are and with `--profile slurm`; says whether the artifacts are the same, and how long everything took.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "slurm"), str(TESTS / "workflow")]

from artifacts import differences  # noqa: E402
from cluster import Cluster  # noqa: E402
from pipelines import Pipeline, clone, run_locally  # noqa: E402


def commands_s(results):
    """(commands, their seconds) that Snakemake's benchmark files tell of."""
    times = [float(path.read_text().splitlines()[1].split("\t")[0]) for path in (results / "benchmarks").rglob("*.tsv")]
    return len(times), sum(times)


def jobs_s(cluster):
    """(jobs, seconds they ran, seconds they waited in the queue), as the controller tells."""
    jobs = cluster.jobs().values()
    began, ended, sent = (
        [datetime.fromisoformat(job[name]).timestamp() for job in jobs] for name in ("StartTime", "EndTime", "SubmitTime")
    )
    return len(began), sum(ended) - sum(began), sum(began) - sum(sent)


def timed(run):
    began = time.monotonic()
    found = run()
    return found, time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", nargs="+", default=["config/demo.yaml"])
    parser.add_argument("--poll", type=int, default=15, help="seconds before Snakemake first asks Slurm for a job (profile: 15)")
    arguments = parser.parse_args()
    options, cores = ["--configfile", *arguments.configfile], os.cpu_count()
    with tempfile.TemporaryDirectory(prefix="slurm-overhead-") as name:
        folder = Path(name)
        local, local_s = timed(lambda: run_locally(clone(folder / "local"), options, cores))
        cluster = Cluster(folder / "cluster")
        cluster.up()
        try:
            copy = clone(folder / "sent")
            run = Pipeline(copy, cluster.environment, ["--slurm-init-seconds-before-status-checks", str(arguments.poll)], options)
            try:
                status, sent_s = timed(lambda: run.finish(36_000))
            finally:
                run.end()
            if status:
                sys.exit(run.said[-5000:])
            count, ran_s, queued_s = jobs_s(cluster)
        finally:
            cluster.down()
        (commands, local_work_s), (_, sent_work_s) = commands_s(local), commands_s(copy / "results")
        print(
            json.dumps(
                {
                    "configuration": arguments.configfile,
                    "cores": cores,
                    "commands": commands,
                    "jobs": count,
                    "different_artifacts": differences(copy / "results", local),
                    "local_s": round(local_s, 1),
                    "slurm_s": round(sent_s, 1),
                    "overhead_s": round(sent_s - local_s, 1),
                    "overhead_s_per_job": round((sent_s - local_s) / count, 1),
                    "times_local": round(sent_s / local_s, 2),
                    "commands_local_s": round(local_work_s, 1),
                    "commands_slurm_s": round(sent_work_s, 1),
                    "jobs_ran_s": round(ran_s, 1),
                    "jobs_queued_s": round(queued_s, 1),
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
