"""The jobs of today's configuration, as Snakemake sees them: its rules are read in this process, nothing is run.

Only what is asked for is expanded (`Today.producer`), so explaining one file of a large sweep does not build all of it.
"""

import contextlib
import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import loading

SNAKEFILE = "Snakefile"
BESIDE = ".manifest.json"


@dataclass(eq=False)
class Job:
    """One job. `inputs` and `outputs` are paths from the checkout, without code and without manifests beside another file.

    command: dotted, as in manifests; settings: of today; depends: the jobs that make its inputs; raw: Snakemake's own object.
    """

    rule: str
    wildcards: dict
    command: str
    settings: dict
    inputs: list
    code: list
    outputs: list
    raw: object
    depends: list = field(default_factory=list)

    @property
    def stage(self):
        """Name of its stage: data, model, probe, scores, allocation, training, evaluation or report."""
        folder = Path(self.outputs[0]).parts[1]
        return "model" if folder == "models" else folder

    @property
    def log(self):
        """Path of its log."""
        return next(iter(map(str, self.raw.log)), "")

    @property
    def benchmark(self):
        """Path of the file in which Snakemake keeps its time and memory."""
        return str(self.raw.benchmark or "")

    @property
    def gpus(self):
        """How many GPUs it asks for."""
        return int(self.raw.resources.get("gpu", 0))


@contextlib.contextmanager
def read(configfiles=(), assignments=()):
    """Yield Today for configuration files and key=value texts laid over config/config.yaml, as for `snakemake`."""
    if not Path(SNAKEFILE).is_file():
        raise UserError(f"{SNAKEFILE}: no such file; run this in the folder of the checkout")
    loading.read(configfiles, assignments, Path.cwd())  # says in one line what is wrong, before Snakemake would
    from snakemake.api import SnakemakeApi
    from snakemake.cli import parse_config
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    given = ConfigSettings(config=parse_config(assignments), configfiles=[Path(file) for file in configfiles])
    try:
        with SnakemakeApi(OutputSettings(dryrun=True, quiet={Quietness.ALL}, log_level_override=logging.ERROR)) as api:
            asked = api.workflow(ResourceSettings(cores=1), given, snakefile=Path(SNAKEFILE))
            yield Today(asked.dag(DAGSettings()).workflow_api._workflow)
    except WorkflowError as error:
        raise UserError(_line(error)) from None


def _line(error):
    return " ".join(str(error).split())


class Today:
    """Answers which job makes a file. `plan` is the rules' own Plan."""

    def __init__(self, workflow):
        # What `snakemake --summary` does before it looks at files; the API has no call for the rules' jobs alone.
        workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=False)
        self.workflow, self.plan = workflow, workflow.globals["plan"]
        self._by_file, self._by_raw = {}, {}

    def producer(self, path):
        """The Job that makes a file, None where no rule does. UserError where the configuration forbids what it would take."""
        path = str(path)
        if path not in self._by_file:
            self._by_file[path] = self._job(path)
        return self._by_file[path]

    def target(self, name):
        """Paths that a named target such as `evaluate` stands for, None where there is no such target."""
        if not self.workflow.is_rule(name):
            return None
        rule = self.workflow.get_rule(name)
        if rule.has_wildcards():
            return None
        raw = self.workflow.async_run(self.workflow.dag.rule2job(rule))
        return self._described(raw).outputs or _without_manifests(raw.input)

    def upstream(self, jobs):
        """These jobs and all that they depend on, each after what it depends on."""
        ordered, seen = [], set()

        def visit(job):
            if job not in seen:
                seen.add(job)
                for other in job.depends:
                    visit(other)
                ordered.append(job)

        for job in jobs:
            visit(job)
        return ordered

    def _job(self, path):
        from snakemake.exceptions import MissingRuleException, WorkflowError

        try:
            found = self.workflow.async_run(self.workflow.dag.file2jobs(path))
        except MissingRuleException:
            return None
        except WorkflowError as error:
            raise UserError(f"{path}: {_line(error)}") from None
        return self._described(found[0])

    def _described(self, raw):
        if raw in self._by_raw:
            return self._by_raw[raw]
        code = {str(path) for path in raw.input.get("code", [])}
        command = re.search(r"python -m hybrid_lora\.(\w+) ([\w-]+)", raw.rule.shellcmd or "")
        job = self._by_raw[raw] = Job(
            rule=raw.rule.name,
            wildcards=dict(raw.wildcards_dict),
            command=f"{command[1]}.{command[2].replace('-', '_')}" if command else "",
            settings=json.loads(json.dumps(raw.params.get("settings", {}))),
            inputs=_without_manifests(path for path in raw.input if str(path) not in code),
            code=sorted(code),
            outputs=_without_manifests(raw.output),
            raw=raw,
        )
        job.depends = list(dict.fromkeys(filter(None, (self.producer(path) for path in job.inputs))))
        return job


def _without_manifests(paths):
    """Paths as text, each once, without the manifests that lie beside a file (a folder is given by its manifest.json)."""
    found = dict.fromkeys(os.path.normpath(str(path)) for path in paths)
    return [path for path in found if not path.endswith(BESIDE)]
