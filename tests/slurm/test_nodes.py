"""A training on two nodes of a real Slurm: srun starts a launcher on each, and both train one policy."""

import re
import shutil

import psutil
from pipelines import CONFIG, QUICK, Pipeline

OPTIONS = [*CONFIG, "tests/slurm/two_nodes.yaml", *QUICK]
POLICY = "results/training/hybrid/policy/manifest.json"


def test_two_nodes_listen_on_loopback_only(two_nodes):
    daemons = two_nodes.processes()
    assert {"slurmd-127.0.0.1", "slurmd-127.0.0.2"} <= daemons.keys()
    listening = {c.laddr.ip for p in daemons.values() for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_a_training_on_two_nodes(two_nodes, undisturbed, tmp_path_factory):
    """Processes are no part of a job's settings; the rewards are, so that the training alone is made again."""
    folder = shutil.copytree(undisturbed.parent, tmp_path_factory.mktemp("two nodes") / "checkout", symlinks=True)
    run = Pipeline(folder, two_nodes.environment | {"GLOO_SOCKET_IFNAME": "lo"}, [POLICY], OPTIONS)
    try:
        assert run.finish(400) == 0, run.said[-5000:]
    finally:
        run.end()
    (job,) = two_nodes.jobs().values()
    assert (job["Comment"], job["JobState"], job["NumNodes"]) == ("rule_training_wildcards_hybrid", "COMPLETED", "2")
    log = (folder / "results/logs/training/hybrid.log").read_text()
    launched = re.findall(
        r"accelerate launch --config_file .*/ddp.yaml'? --num_processes 2 --num_machines 2 .*--machine_rank (\d)", log
    )
    assert sorted(launched) == ["0", "1"]
    assert log.count("training hybrid 2/2 (100 %)") == 1
