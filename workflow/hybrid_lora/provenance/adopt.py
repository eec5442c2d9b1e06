"""`hybrid_lora adopt`: let Snakemake know results that were copied here without its `.snakemake/`.

An artifact is taken over only if its bytes have the hash in its manifest, and if the manifest agrees with today's settings,
inputs, code and package versions. For those, Snakemake's own `Persistence.finished` records the job as it is today. Whatever
does not match is named, and recorded with what differs among its parameters: without any record Snakemake would take it for
up to date by its time alone, with this one it is made again when it is asked for, and the reason is shown.
"""

import os
import time
from contextlib import contextmanager

from hybrid_lora.common.errors import UserError
from hybrid_lora.provenance import differences, records, today, verify

SHOWN = 20  # lines of each list


def run(arguments):
    """configfile, config: as for `snakemake`. UserError, after all is done, where artifacts are damaged."""
    if not os.path.isdir(records.RESULTS):
        raise UserError(f"{records.RESULTS}: no such folder; copy the results here first")
    checked = verify.check([records.RESULTS])
    reader = records.Records(exact=True)
    for path, sha in checked.hashes.items():
        reader.learn(path, sha)
    with today.read(arguments.configfile, arguments.config) as now:
        found = _sort(now, reader, checked)
        _record(now, found.matched, found.left_out)
    _report(found)
    damaged = [path for path, what in checked.problems.items() if _is_damage(what)]
    if damaged:
        raise UserError(f"{len(damaged)} files are damaged; `hybrid_lora verify` names them, and they were not adopted")


class Found:
    """matched: [Job]; left_out: {Job: [reason]}; foreign: [path] that nothing in this configuration makes."""

    def __init__(self):
        self.matched, self.left_out, self.foreign = [], {}, []


def _is_damage(what):
    return what.startswith(("altered", "truncated", "cannot be", "not a JSON"))


def _sort(now, reader, checked):
    found = Found()
    files, manifests = records.walk(records.RESULTS)
    folders = {path for path in manifests if os.path.basename(path) == records.FOLDER}
    inside = {path for place in folders & set(checked.manifests) for path in records.listed(place, checked.manifests[place])}
    jobs = {}
    for path in sorted({*files, *folders} - inside):
        try:
            job = now.producer(path)
        except UserError:  # what it would take is forbidden today
            job = None
        if job is None:
            found.foreign.append(path)
        else:
            jobs[job] = True
    for job in now.upstream(jobs):
        if job in jobs:
            reasons = _reasons(job, reader, checked)
            if reasons:
                found.left_out[job] = reasons
            else:
                found.matched.append(job)
    return found


def _reasons(job, reader, checked):
    """Why a job's artifacts are not taken over, [] where they are."""
    reasons = []
    for path in job.outputs:
        reasons += [f"{name}: {checked.problems[name]}" for name in _parts(path, checked) if name in checked.problems]
        if os.path.exists(path):
            reasons += [difference.text for difference in differences.find(job, path, reader)]
        elif f"{path}: missing" not in " ".join(reasons):
            reasons.append(f"{path}: missing")
    reasons += [f"input {path}: not here, and no manifest tells of it" for path in differences.unknown(job, reader)]
    return list(dict.fromkeys(reasons))


def _parts(path, checked):
    """An output and, of a folder that it stands for, the files in it."""
    if os.path.basename(path) != records.FOLDER:
        return [path]
    top = os.path.dirname(path) + "/"
    return [path, *(name for name in checked.problems if name.startswith(top))]


def _record(now, matched, left_out):
    workflow = now.workflow
    for job in (*matched, *left_out):
        workflow.dag.dependencies[job.raw].clear()  # a job without a number has no shell line; being looked up, it joins
    workflow.dag.update_jobids()
    workflow.dag.update_conda_envs()
    with _locked(workflow):
        for job in matched:
            _refresh(job)
            workflow.async_run(workflow.persistence.finished(job.raw))
        for job, reasons in left_out.items():
            workflow.async_run(workflow.persistence.finished(job.raw))
            _mark(workflow.persistence, job, reasons)


@contextmanager
def _locked(workflow):
    from snakemake.exceptions import LockException
    from snakemake.settings.types import ExecutionSettings, RemoteExecutionSettings

    workflow.execution_settings, workflow.remote_execution_settings = ExecutionSettings(), RemoteExecutionSettings()
    try:
        with workflow.persistence.lock():
            yield
    except LockException:
        raise UserError("Snakemake runs here now; adopt when it is done (after a crash: snakemake --unlock)") from None


def _refresh(job):
    """Give outputs that are older than an input today's time, as `snakemake --touch` does: copying mixes times up."""
    files = [str(path) for path in job.raw.output if os.path.exists(path)]
    newest = max((os.path.getmtime(path) for path in map(str, job.raw.input) if os.path.exists(path)), default=0)
    if newest > min(map(os.path.getmtime, files)):
        stamp = max(newest, time.time())
        for path in [*files, *(f"{path}{records.BESIDE}" for path in files if os.path.exists(f"{path}{records.BESIDE}"))]:
            os.utime(path, (stamp, stamp))


def _mark(persistence, job, reasons):
    persistence.deactivate_cache()  # it remembers that there was no record
    for path in job.raw.output:
        record = persistence.metadata(path)
        record.params = [f"hybrid_lora adopt: {reason}" for reason in reasons]
        persistence._write_record(persistence._get_key(path), record)


def _report(found):
    count = sum(len(job.outputs) for job in found.matched)
    print(f"adopted {count} artifacts of {len(found.matched)} jobs: they are what today's configuration would make")
    if found.left_out:
        print(f"left out, made again when asked for: artifacts of {len(found.left_out)} jobs")
        _list([f"{' '.join(job.outputs)}\n    " + "\n    ".join(reasons[:6]) for job, reasons in found.left_out.items()])
    below = _below(found)
    if below:
        print(f"adopted, but made again too, as what they read is: artifacts of {below} jobs")
    if found.foreign:
        print(f"not touched, nothing in this configuration makes them: {len(found.foreign)} files")
        _list(found.foreign)


def _below(found):
    """How many matched jobs read, by any number of steps, what is made again."""
    again = set(found.left_out)
    for job in found.matched:  # each comes after what it reads
        if again.intersection(job.depends):
            again.add(job)
    return len(again) - len(found.left_out)


def _list(lines):
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more")
