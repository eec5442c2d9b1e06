"""`hybrid_lora why`: in words, what made an artifact stale, what it was before and is now, up the chain of what it read."""

import os

from hybrid_lora.common import alive
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_file
from hybrid_lora.provenance import keys, records, today
from hybrid_lora.provenance.staleness import Staleness

MANY = 12  # differences of one artifact that are shown


def run(arguments):
    """file: an artifact, a folder of artifacts, or a target of the workflow; configfile, config: as for `snakemake`."""
    with today.read(arguments.configfile, arguments.config) as now:
        lines = list(Explanation(now, keys.Keys(now, arguments.configfile, arguments.config)).lines(arguments.file))
    print("\n".join(lines))


class Explanation:
    """Says of each job once what made it stale, and of inputs that are stale alike only once how."""

    def __init__(self, now, keys):
        self.now, self.keys, self.records = now, keys, records.Records(exact=True)
        self.staleness = Staleness(now, self.records)
        self._told, self._alike = set(), {}

    def lines(self, asked):
        """Lines of text for a path or the name of a target. UserError where nothing makes it."""
        path = self._artifact(asked)
        if self.now.producer(path) is not None or self.records.place(path) is not None:
            yield from self._about(path, self._job(path))
            return
        several = self._several(asked)
        if not several:
            self._job(path)  # says why not
        fine = 0
        for path in several:
            job = self._job(path)
            if self.staleness.of(job).state == "done" and not self._damage(path):
                fine += 1
            elif self._mark(job) not in self._told:
                yield from self._about(path, job)
        yield f"{asked}: {fine} of {len(several)} files are up to date"

    def _several(self, asked):
        """Paths that a target or a folder of several artifacts stands for."""
        if not os.path.lexists(asked):
            return self.now.target(asked) or []
        files, manifests = records.walk(os.path.relpath(asked))
        folders = [path for path in manifests if os.path.basename(path) == records.FOLDER]
        return [path for path in sorted([*files, *folders]) if self.now.producer(path) is not None]

    def _artifact(self, asked):
        path = os.path.relpath(asked)
        if path.endswith(records.BESIDE):
            return path.removesuffix(records.BESIDE)
        inside = os.path.join(path, records.FOLDER)
        return inside if self.now.producer(path) is None and self.now.producer(inside) is not None else path

    def _job(self, path):
        job, place = self.now.producer(path), self.records.place(path)
        if job is None and place is not None:
            job = self.now.producer(place)  # a file of a folder
        if job is not None:
            return job
        if place is not None:
            stage = self.records.read(place)["stage"]
            raise UserError(f"{path}: {stage} made it, but nothing in this configuration does (is it of another --configfile?)")
        if os.path.exists(path):
            raise UserError(f"{path}: not an artifact; no rule makes it and no manifest tells of it")
        raise UserError(f"{path}: no such file or target, and nothing in this configuration makes it (of another --configfile?)")

    def _about(self, path, job):
        verdict, damage = self.staleness.of(job), self._damage(path)
        if damage:
            yield f"{path} {damage}"
        if not os.path.exists(path):
            yield f"{path} is missing: {self._sign(job)}"
        elif verdict.renewed:
            yield f"{path} is stale:"
        elif verdict.missing:
            yield f"{path} is here, but {', '.join(verdict.missing)} of the same job is missing"
        elif not damage:
            yield f"{path} is up to date"
        yield from self._causes(job, "  ")

    def _causes(self, job, indent):
        verdict = self.staleness.of(job)
        self._told.add(self._mark(job))
        for difference in verdict.own[:MANY]:
            yield f"{indent}{difference.text}{self.keys.told(job, difference)}"
        if len(verdict.own) > MANY:
            yield f"{indent}and {len(verdict.own) - MANY} differences more"
        alike = {}
        for path, maker in verdict.upstream:
            alike.setdefault(self._mark(maker), []).append((path, maker))
        for mark, found in alike.items():
            path, maker = found[0]
            others = f" and {len(found) - 1} more like it" if len(found) > 1 else ""
            what = f"{indent}input {path}{others} {'are' if others else 'is'} {self._how(maker)}"
            if mark in self._told:
                yield f"{what}, as said above"
            else:
                yield f"{what}:"
                yield from self._causes(maker, indent + "  ")

    def _how(self, maker):
        return "missing, and would be made of something stale" if self.staleness.of(maker).missing else "stale too"

    def _mark(self, job):
        """Equal for jobs of one rule that are stale for equal reasons."""
        if job not in self._alike:
            verdict = self.staleness.of(job)
            own = tuple(difference.text for difference in verdict.own)
            above = frozenset(self._mark(maker) for _, maker in verdict.upstream)
            self._alike[job] = hash((job.rule, own, above)) if own or above else hash((job.rule, job.outputs[0]))
        return self._alike[job]

    def _sign(self, job):
        sign = alive.read(alive.mark(job.outputs[0]))
        if sign is None:
            return "it was not made here yet, or was deleted"
        return f"its job runs now on {sign['host']}" if sign["state"] == "running" else f"its job failed: {sign['error']}"

    def _damage(self, path):
        try:
            about = self.records.of(path)
        except UserError:  # told among the differences
            return None
        name = os.path.basename(path)
        if about is None or name not in about["outputs"] or not os.path.isfile(path):
            return None
        if sha256_file(path) == about["outputs"][name]:
            return None
        return "was altered after it was made: its SHA-256 is not the one in its manifest"
