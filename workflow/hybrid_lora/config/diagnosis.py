"""What the target `diagnose` asks of the configuration: score files and allocations of derived probes, and its own checks.

Nothing here is checked unless the target is asked for: a configuration whose corpus holds out too few rows for K = 40 is
right for everything else.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import paths, probe_checks, variants, words
from hybrid_lora.config.allocations import Allocation
from hybrid_lora.config.layers import dotted
from hybrid_lora.config.probing import SOURCES
from hybrid_lora.config.settings import RESULTS, settings_of

# kinds of dumps with one batch a partition: their scores depend on K
PARTITIONED = ("sensitivity", "full-sensitivity")


class Diagnosis:
    """Part of `Plan`, which gives `values`, `base`, `runs` and `probe`."""

    def _diagnose(self):
        return self.values["report"]["diagnose"]

    def diagnosed_models(self):
        """All models of the runs table."""
        return list(dict.fromkeys(run.model for run in self.runs.values()))

    def diagnosed_allocations(self):
        """{name: Allocation} of all models' variants; none where the probe is not defined, which `check_diagnose` says."""
        every = [a for m in self.diagnosed_models() for c in self._diagnose()["stability"] for a in self._variants(m, c)]
        return {allocation.name: allocation for _, _, allocation in every}

    def derived_probes(self):
        """Names of the probes that exist for `diagnose` alone."""
        found = dict.fromkeys(allocation.probe for allocation in self.diagnosed_allocations().values())
        return [name for name in found if name not in self.values["probes"]]

    def _variants(self, model, criterion):
        """[(suffix, number, Allocation)] of a criterion: every seed and every K, where it depends on them and has two or more."""
        entry, probes = self._diagnose(), self.values["probes"]
        if entry["probe"] not in probes:
            return []
        numbers = {"seed": entry["seeds"] if SOURCES[criterion] else []}
        numbers["k"] = entry["partitions"] if SOURCES[criterion] in PARTITIONED else []
        budget = criterion, self.values["allocation"]["unit"], entry["ratio"]
        return [
            (suffix, number, Allocation(model, variants.name(entry["probe"], probes, suffix, number), *budget))
            for suffix, several in numbers.items()
            for number in (several if len(several) > 1 else [])
        ]

    def diagnose_scores(self, model):
        """All score files of a model's diagnosis, that of the exact perturbation first."""
        self.check_diagnose()
        entry = self._diagnose()
        found = [self._scores_file(model, criterion) for criterion in ("perturbation", *entry["criteria"])]
        found += [a.scores for criterion in entry["stability"] for _, _, a in self._variants(model, criterion)]
        return list(dict.fromkeys(found))

    def diagnose_allocations(self, model):
        """All allocation files of a model's diagnosis."""
        found = [a.path for criterion in self._diagnose()["stability"] for _, _, a in self._variants(model, criterion)]
        return list(dict.fromkeys(found))

    def _scores_file(self, model, criterion):
        return f"{RESULTS}/scores/{model}/{self._diagnose()['probe']}/{criterion}.parquet"

    def diagnose_files(self):
        """What the target makes."""
        return [f"{RESULTS}/report/diagnose-{m}.{kind}" for m in self.diagnosed_models() for kind in ("csv", "md", "png", "svg")]

    @settings_of("report.diagnose")
    def diagnose(self, model):
        """Settings of `report diagnose`."""
        entry = self._diagnose()
        settings = {key: entry[key] for key in ("probe", "ratio", "bootstrap")}
        settings |= {"model": model, "unit": self.values["allocation"]["unit"], "seed": 0}
        settings |= {"partitions": self.probe(entry["probe"])["sensitivity"]["partitions"]}
        criteria = [{"criterion": name, "scores": self._scores_file(model, name)} for name in entry["criteria"]]
        stability = [self._stability(model, criterion) for criterion in entry["stability"]]
        exact = self._scores_file(model, "perturbation")
        return {**settings, "perturbation": exact, "criteria": criteria, "stability": stability}

    def _stability(self, model, criterion):
        found = {"criterion": criterion, "seeds": [], "partitions": []}
        for suffix, number, allocation in self._variants(model, criterion):
            part, key = {"seed": ("seeds", "seed"), "k": ("partitions", "partitions")}[suffix]
            found[part].append({key: number, "scores": allocation.scores, "allocation": allocation.path})
        return found

    def check_diagnose(self):
        """UserError, one line, on what only `diagnose` needs."""
        entry, probes = self._diagnose(), self.values["probes"]
        name = entry["probe"]
        if name not in probes:
            raise _Keys.error(("report", "diagnose", "probe"), f"probe {words.choice(name, probes)}")
        for criterion in entry["stability"]:
            if SOURCES[criterion] is None:
                what = f"'{criterion}' depends on neither a warm-up nor K; name another criterion"
                raise _Keys.error(("report", "diagnose", "stability"), what)
        self._check_ratio(entry["ratio"])
        criteria = list(dict.fromkeys(["perturbation", *entry["criteria"], *entry["stability"]]))
        probe_checks.check(self.values, name, None, criteria, _Keys)
        self._check_corpus(name)
        probe_checks.check_validation(self.values, name, criteria, _Keys)
        self._check_partitions(name)
        self._check_names(name)

    def _check_ratio(self, ratio):
        unit, path = self.values["allocation"]["unit"], ("report", "diagnose", "ratio")
        if unit == "absolute" and (ratio < 1 or ratio != int(ratio)):
            what = f"is {ratio}, must be a number of parameters, 1 or more, as allocation.unit is absolute"
            raise _Keys.error(path, what)
        if unit != "absolute" and ratio > 1:
            raise _Keys.error(path, f"is {ratio}, must be a share, at most 1, as allocation.unit is {unit}")

    def _check_corpus(self, name):
        corpus = self.values["probes"][name]["corpus"]
        if corpus not in self.values["corpora"]:
            raise _Keys.error(("probes", name, "corpus"), f"corpus {words.choice(corpus, self.values['corpora'])}")
        data = self.values["corpora"][corpus]["data"]
        if data not in paths.NOT_FILES and paths.data_file(data, self.values["data_dir"], self.base) is None:
            what = f"no such file: {data}; looked up in data_dir ({self.values['data_dir']}), then beside the Snakefile"
            raise _Keys.error(("corpora", corpus, "data"), what)

    def _check_partitions(self, name):
        """The largest K has its own validation batches."""
        entry, probe = self._diagnose(), self.values["probes"][name]
        if len(entry["partitions"]) < 2 or not any(SOURCES[c] in PARTITIONED for c in entry["stability"]):
            return
        most, size, chunk = max(entry["partitions"]), *(probe["sensitivity"][key] for key in ("batch_size", "batches_per_chunk"))
        batches = -(-most // chunk) * chunk
        held = self.values["corpora"][probe["corpus"]]["validation_rows"]
        if held < batches * size:
            whole = f", in whole chunks of {chunk} batches {batches}," if batches > most else ""
            what = f"report.diagnose.partitions {most}{whole} * batch_size {size} needs {batches * size} rows"
            raise UserError(f"corpora.{probe['corpus']}.validation_rows is {held}, {what}")

    def _check_names(self, name):
        """A derived probe must not be mistaken for an entry of that name."""
        for allocation in self.diagnosed_allocations().values():
            if allocation.probe != name and allocation.probe in self.values["probes"]:
                what = f"is what report.diagnose calls a variant of probe '{name}'; choose another name"
                raise _Keys.error(("probes", allocation.probe), what)


class _Keys:
    """Stands for `layers.Origin`, which is gone once the configuration is loaded: names the key, not the file."""

    @staticmethod
    def error(path, what):
        """UserError that names the key."""
        return UserError(f"{dotted(path)}: {what}")
