"""The cluster itself: where its daemons listen, what its jobs see, and that nothing is left of it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster import LINK, Cluster
from machine import Unavailable, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=[False, True], ids=["without slurmdbd", "with slurmdbd"])
def running(request, tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up(accounting=request.param)
    except Unavailable as reason:
        pytest.skip(f"no Slurm: {reason}")
    yield cluster
    cluster.down()


def test_daemons_listen_on_loopback_only(running):
    daemons = running.processes()
    assert {"munged", "slurmctld", f"slurmd-{running.node}"} <= daemons.keys()
    listening = {c.laddr.ip for p in daemons.values() for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_a_job_gets_its_gpu_and_its_memory_is_held_to_the_limit(running, tmp_path):
    seen = running.run("srun", "--partition=gpu", "--gpus=1", "--mem=100", "printenv", "CUDA_VISIBLE_DEVICES")
    assert seen in ("0", "1")
    greedy = 'x = bytearray(b"1" * 400_000_000); import time; time.sleep(20)'
    began = time.monotonic()
    command = ["srun", "--mem=200", "python3", "-c", greedy]
    done = subprocess.run(command, env=running.environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "memory" in done.stderr.lower()
    assert time.monotonic() - began < 20


def test_a_job_knows_its_end_whether_slurm_tells_it_or_is_asked(running, tmp_path):
    said = "from hybrid_lora.common.job_time import job_end; print(job_end())"
    command = f"unset SLURM_JOB_END_TIME; PYTHONPATH={ROOT / 'workflow'} {sys.executable} -c '{said}'"
    out = tmp_path / "out"
    running.run("sbatch", "--wait", "--time=7", "--mem=500", f"--output={out}", f"--wrap={command}")
    assert abs(float(out.read_text()) - (time.time() + 420)) < 30


def test_an_urgent_job_takes_the_place_of_another_which_is_requeued(running):
    job = running.run("sbatch", "--parsable", "--cpus-per-task=16", "--mem=100", "--output=/dev/null", "--wrap=sleep 300")
    wait_for(lambda: running.job(job)["JobState"] == "RUNNING", "the job running")
    running.run("srun", "--partition=urgent", "--cpus-per-task=16", "--mem=100", "true")
    assert running.job(job)["Restarts"] == "1"
    running.run("scancel", job)


def test_a_node_that_fails_gives_its_job_back_to_the_queue(running):
    job = running.run("sbatch", "--parsable", "--mem=100", "--output=/dev/null", "--wrap=sleep 300")
    wait_for(running.steps, "the job running")
    running.fail_node()
    running.start_node()
    wait_for(lambda: running.job(job)["Restarts"] == "1", "the job requeued")
    running.run("scancel", job)


def test_a_second_cluster_is_refused_and_nothing_is_left_at_the_end(running, tmp_path):
    with pytest.raises(Unavailable, match="belongs to another Slurm"):
        Cluster(tmp_path).up()
    processes = running.processes()
    running.down()
    assert not [name for name, process in processes.items() if process.is_running()]
    assert not LINK.is_symlink()
