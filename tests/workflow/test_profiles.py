"""Profiles for sites, laid over the repository's `slurm`: dry runs, and what Snakemake understands of them."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from snakemake_executor_plugin_slurm.partitions import read_partition_file
from tests_workflow import REPO, copy_checkout

PROFILES = "workflow/profiles"
OPTIONS = (
    "executor",
    "jobs",
    "retries",
    "slurm_requeue",
    "slurm_partition_config",
    "software_deployment_method",
    "apptainer_args",
)
TELL = f"""
import json, sys
from snakemake.cli import parse_args
_, options = parse_args(sys.argv[1:])
told = {{name: str(getattr(options, name)) for name in {OPTIONS}}}
print(json.dumps(told | {{"default": options.default_resources.args, "set": str(options.set_resources)}}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("profiles") / "clone")


def ran(checkout, *command):
    environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow")}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def planned(checkout, *profiles, arguments=()):
    """What Snakemake understands of profiles laid over one another, after a dry run with them."""
    layers = [word for profile in profiles for word in ("--profile", str(profile))]
    said = ran(checkout, "-m", "snakemake", "-n", *layers, "--configfile", "config/tiny.yaml", *arguments)
    assert re.search(r"^training +3$", said, re.MULTILINE)
    return json.loads(ran(checkout, "-c", TELL, "-n", *layers).splitlines()[-1])


def test_a_site_s_profile_is_laid_over_ours(checkout, tmp_path):
    site = tmp_path / "mine"
    shutil.copytree(checkout / PROFILES / "site", site)
    told = planned(checkout, "slurm", site)
    assert (told["executor"], told["jobs"], told["retries"], told["slurm_requeue"]) == ("slurm", "200", "2", "True")
    assert told["slurm_partition_config"] == str(site / "partitions.yaml")
    theirs = {"slurm_account=my-account", "qos=normal", "constraint='ib&ssd'", "slurm_extra='--mail-type=FAIL'"}
    assert theirs <= set(told["default"])
    assert "training" in told["set"] and "2880" in told["set"] and "gpu_model" in told["set"]


def test_the_site_s_partitions_are_read_by_the_executor():
    partitions = read_partition_file(REPO / PROFILES / "site/partitions.yaml")
    assert {partition.name for partition in partitions} == {"standard", "gpu"}


def test_a_profile_of_the_same_name_at_home_is_reached_by_its_path(checkout, tmp_path, monkeypatch):
    """./slurm comes first for `--profile slurm`; the user's own is laid over it by its path."""
    home = tmp_path / ".config/snakemake/slurm"
    home.mkdir(parents=True)
    (home / "config.yaml").write_text("default-resources:\n  - mem_mb=4000\n  - runtime=60\n  - slurm_account=from-home\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    assert "slurm_account=from-home" not in planned(checkout, "slurm")["default"]
    both = planned(checkout, "slurm", home)
    assert "slurm_account=from-home" in both["default"]
    assert both["slurm_requeue"] == "True"


def test_containers_come_from_the_configuration(checkout, tmp_path, monkeypatch):
    # A dry run runs nothing in a container, but wants to know that there is an Apptainer, and which.
    (tmp_path / "apptainer").write_text("#!/bin/sh\necho apptainer version 1.4.0\n")
    (tmp_path / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (checkout / "image.sif").touch()
    arguments = ["--config", "compute={container: image.sif}"]
    told = planned(checkout, "slurm", f"{PROFILES}/apptainer", arguments=arguments)
    assert "apptainer" in told["software_deployment_method"].lower()
    assert told["apptainer_args"] == "--nv --bind /scratch"
    said = ran(checkout, "-c", CONTAINER, *arguments)
    assert said.splitlines()[-1] == "image.sif"


# The image that a job would run in, as the workflow's rules have it.
CONTAINER = """
import sys
from snakemake.api import SnakemakeApi, ConfigSettings, DAGSettings, DeploymentMethod, DeploymentSettings, ResourceSettings
from pathlib import Path
import yaml
compute = yaml.safe_load(sys.argv[2].split("=", 1)[1])
with SnakemakeApi() as api:
    workflow = api.workflow(
        snakefile=Path("Snakefile"), resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(configfiles=[Path("config/tiny.yaml")], config={"compute": compute}),
        deployment_settings=DeploymentSettings(deployment_method=frozenset({DeploymentMethod.APPTAINER})),
    )
    workflow.dag()
    rules = {rule.name: rule for rule in workflow._workflow.rules}
    print(rules["training"].container_img)
"""


def test_every_profile_is_explained():
    text = (REPO / PROFILES / "README.md").read_text()
    for folder in (REPO / PROFILES).iterdir():
        if folder.is_dir():
            assert f"`{folder.name}`" in text
            assert yaml.safe_load((folder / "config.yaml").read_text())
