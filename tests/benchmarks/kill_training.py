"""Benchmark: kill -9 at random moments until there were enough kills, each run compared with one that nobody killed; CPU only.

    PYTHONPATH=workflow python tests/benchmarks/kill_training.py [--kills 12] [--jobs sft grpo gspo] [--seed 0]

Each job is started again after every kill, until it ends by itself; then all it made is compared: weights and other files to
the byte, history and samples but for times and memory. Jobs: the three objectives on a hybrid placement with LoRA dropout, the
probes' trainings, and the pretraining of a model. Exits with 1 if anything differs, or more than a save interval was redone.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from killing import JOBS, OBJECTIVES, SAVE_EVERY, Materials, Starter, differences, killed, redone, uninterrupted


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12, help="of each job, at least")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(OBJECTIVES), metavar="JOB", help=" | ".join(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed, total = False, 0
    with tempfile.TemporaryDirectory() as folder:
        materials, starter = Materials(Path(folder) / "materials"), Starter()
        for job in arguments.jobs:
            times = uninterrupted(starter, materials, job, Path(folder) / job)
            kills, run = 0, 0
            while kills < arguments.kills:
                out = Path(folder) / f"{job}-{run}"
                attempts = killed(starter, materials, job, out, times, seed=1000 * arguments.seed + run)
                found, again = differences(Path(folder) / job, out), redone(attempts)
                where = " ".join("start" if a.resumed is None else f"{a.resumed}-{a.reached}" for a in attempts)
                verdict = "; ".join(found) or "equal"
                print(
                    f"{job:12} run {run}: {len(attempts) - 1:2} kills, {max(again)} steps redone, {verdict}; steps {where}",
                    flush=True,
                )
                failed |= bool(found) or max(again) > SAVE_EVERY
                kills, run, total = kills + len(attempts) - 1, run + 1, total + len(attempts) - 1
                shutil.rmtree(out)
        starter.close()
    print(f"{total} kills: {'FAILED' if failed else 'all runs equal, never more than a save interval redone'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
