"""Checks the configuration before any job, and gives the rules `plan` (settings of jobs) and `code` (files a command runs)."""

import gc
import json
import os
import sys

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# Planning thousands of jobs makes millions of objects that stay: looking for garbage among them takes a sixth of the time.
gc.disable()

package = os.path.join(workflow.basedir, "workflow")
sys.path.insert(0, package)
# Jobs find the package too, in whatever environment they run.
os.environ.update(
    PYTHONPATH=os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
)

from hybrid_lora import config as configuration
from hybrid_lora.common import checkpoints, packages, slurm, unrecorded
from hybrid_lora.common.code import relative_sources
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import check_writable
from hybrid_lora.config.patterns import exactly
from hybrid_lora.config import compute, installed, layers
from hybrid_lora.config.plan import Plan
from hybrid_lora.training import launch

try:
    # Snakemake reads numbers inside of `--config key={...}` as text.
    given = layers.command_line(workflow.config_settings.config_args or [])
    merged = layers.merge(config, given)
    files = [str(path) for path in workflow.configfiles]
    loaded = configuration.load(merged, files, os.getcwd())
except UserError as error:
    raise WorkflowError(str(error))

environment = f"../envs/{'gpu' if loaded.values['compute']['gpus'] else 'cpu'}.yaml"
deployment = workflow.deployment_settings.deployment_method
conda_used = DeploymentMethod.CONDA in deployment
plan = Plan(
    loaded,
    os.getcwd(),
    (
        packages.pinned(os.path.join(workflow.basedir, "rules", environment))
        if conda_used
        else packages.installed
    ),
)

slurm.mend()
if workflow.is_main_process:
    unrecorded.refuse()
# No part of any job's settings: what is watched, and how safely work is kept, change no result.
os.environ.update(
    {
        "HYBRID_LORA_LOGGING": json.dumps(plan.values["logging"]),
        checkpoints.ENVIRONMENT: json.dumps(plan.values["checkpoints"]),
        launch.VARIABLE: json.dumps(plan.launch),
    }
)


# Only with `--sdm apptainer`.
container: plan.values["compute"]["container"]


def code(command, settings=None):
    """The package's files that a command runs, as inputs of rules; `settings` of the job may choose among them."""
    return relative_sources(f"hybrid_lora.{command}", os.getcwd(), settings)


def rows(part, corpus):
    """A corpus' rows to train on (train) or to validate on (val)."""
    return f"results/data/{corpus}/{part}.parquet"


def heavy(paths):
    """These inputs, with their time ignored.

    Snakemake keeps no checksum of an input of more than 1 MB: a bare touch of it would rerun all that read it. What may
    be that large is therefore `ancient`, and rules track its manifest instead, which holds its hash.
    """
    return [
        path if os.path.basename(path) == "manifest.json" else ancient(path)
        for path in paths
    ]


def manifests(*paths):
    """The manifests beside heavy files; a folder is given by its own."""
    return [
        f"{path}.manifest.json"
        for path in paths
        if os.path.basename(path) != "manifest.json"
    ]


def asked(question, *arguments):
    """An answer of the plan; what is wrong with the configuration becomes Snakemake's kind of error."""
    try:
        return question(*arguments)
    except UserError as error:
        raise WorkflowError(str(error))


# Before the first job is sent; not in a dry run.
onstart:
    gc.freeze()
    gc.enable()
    asked(check_writable, "results")
    if not deployment:  # else jobs run in an environment of their own
        origin = layers.Origin(merged, files, os.getcwd())
        asked(installed.check, workflow.dag.needrun_jobs(), plan, origin)


wildcard_constraints:
    model=exactly(plan.values["models"]),
    probe=exactly([*plan.values["probes"], *plan.derived_probes()]),
    corpus=exactly(plan.values["corpora"]),
    run=exactly(plan.runs),
    benchmark=exactly(plan.values["benchmarks"]),
    allocation=exactly(plan.every_allocation),
    chunk=r"\d+",
    criterion=r"[a-z0-9-]+",
