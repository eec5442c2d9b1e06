"""Is the score any good? Every criterion against the exact perturbation P (Eq. 9), and how far an allocation can be trusted.

1. Spearman's rank correlation of each criterion's score with P and with |P|: the Hybrid-Score measures a magnitude, P is
   signed. Oriented by the criteria's directions: +1 means "sends the same modules to full fine-tuning first".
2. Over warm-up seeds and over the number K of partitions: rank correlation of scores, Jaccard index of the sets that the
   budget sends to full fine-tuning.

The paper gives neither: it calls P the more faithful estimator (Section 3.3) and takes the score as its cheap stand-in.
"""

import math

import numpy as np

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_text
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts import scores as scores_file
from hybrid_lora.report import agreement, diagnose_figure, diagnose_text
from hybrid_lora.report.settings import need

KEYS = ("model", "probe", "perturbation", "criteria", "stability", "unit", "ratio", "partitions", "bootstrap", "seed")
SIGNS = {"ascending": 1, "descending": -1}


def run(settings, modules, scores, allocations, csv, md, png, svg):
    """settings: {model, probe, unit and ratio of the budget, partitions: the probe's own K, bootstrap: number of resamples, seed,
    perturbation: path of P's score file, criteria: [{criterion, scores: path}],
    stability: [{criterion, seeds: [{seed, scores, allocation}], partitions: [{partitions, scores, allocation}]}]}.

    Paths in the settings must be among `scores` and `allocations`, so that manifests name all that the numbers come from.
    """
    need(settings, KEYS, "diagnose settings")
    if not settings["criteria"]:
        raise UserError("diagnose settings: key 'criteria' is empty; name one or more criteria")
    reader = _Reader(settings, modules, scores, allocations)
    exact = reader.scores(settings["perturbation"], "perturbation")
    result = {
        "modules": len(reader.names),
        "batches": exact["batches"],
        "negative": int((exact["score"] < 0).sum()),
        "correlations": [_correlations(entry, reader, exact, settings) for entry in settings["criteria"]],
        "stability": [_stability(entry, reader) for entry in settings["stability"]],
    }
    write_text(csv, diagnose_text.table(result, settings))
    write_text(md, diagnose_text.page(result, settings))
    diagnose_figure.draw(result, settings, png, svg)
    inputs = {"modules": modules, "scores": scores, "allocations": allocations}
    for artifact in (csv, md, png, svg):
        manifest.write_beside(artifact, "report.diagnose", settings, inputs, code.sources("hybrid_lora.report.diagnose"))


def _correlations(entry, reader, exact, settings):
    """{criterion, distinct: number of different scores, P: {value, low, high, undefined}, |P|: the same}."""
    found = reader.scores(entry["scores"], entry["criterion"])
    result = {"criterion": entry["criterion"], "distinct": len(np.unique(found["score"]))}
    for name, values in (("P", exact["score"]), ("|P|", np.abs(exact["score"]))):
        ours, theirs = found["sign"] * found["score"], exact["sign"] * values
        low, high, undefined = agreement.interval(ours, theirs, settings["bootstrap"], settings["seed"])
        value = agreement.spearman(ours, theirs)
        result[name] = {"value": value, "low": low, "high": high, "undefined": undefined}
        if value is None:  # a constant side: nothing to resample either
            result[name] |= {"low": None, "high": None, "constant": "P" if _constant(values) else entry["criterion"]}
    return result


def _constant(values):
    return len(np.unique(values)) == 1


def _stability(entry, reader):
    """{criterion, seeds: pairs of seeds, partitions: each K with the largest}; a pair is as `_pair` gives it."""
    criterion = entry["criterion"]
    seeds = [reader.variant(criterion, variant, "seed") for variant in entry["seeds"]]
    partitions = [reader.variant(criterion, variant, "partitions") for variant in entry["partitions"]]
    partitions.sort(key=lambda variant: variant["name"])
    return {
        "criterion": criterion,
        "seeds": [_pair(first, second, len(reader.names)) for first, second in agreement.pairs(seeds)],
        "partitions": [_pair(few, partitions[-1], len(reader.names)) for few in partitions[:-1]],
    }


def _pair(first, second, modules):
    """{first, second: names of two variants, spearman, jaccard, sizes of their FFT sets, chance: Jaccard of random sets}."""
    sizes = len(first["fft"]), len(second["fft"])
    return {
        "first": first["name"],
        "second": second["name"],
        "spearman": agreement.spearman(first["score"], second["score"]),
        "jaccard": agreement.jaccard(first["fft"], second["fft"]),
        "sizes": sizes,
        "chance": agreement.jaccard_by_chance(*sizes, modules),
    }


class _Reader:
    """Reads score files and allocations of one model, all modules in the order of modules.json; UserError where they differ."""

    def __init__(self, settings, modules, scores, allocations):
        self.settings = settings
        self.given = {"scores": set(map(str, scores)), "allocations": set(map(str, allocations))}
        listed = modules_file.read(modules)
        self.model, self.names = listed["model"], [module["module"] for module in listed["modules"]]
        if len(self.names) < agreement.FEWEST:
            count = f"{len(self.names)} module{'' if len(self.names) == 1 else 's'}"
            raise UserError(f"{modules}: {count}; rank correlations need {agreement.FEWEST} or more")

    def scores(self, path, criterion):
        """{score: float64 [modules], sign: +1 where the lowest goes to full fine-tuning first, batches}."""
        rows, about = scores_file.read(self._given(path, "scores"))
        for key, wanted in (("model", self.settings["model"]), ("criterion", criterion)):
            if about.get(key) != wanted:
                raise UserError(f"{path}: {key} is {about.get(key)!r} in its metadata, '{wanted}' was to be diagnosed")
        if about.get("direction") not in SIGNS:
            raise UserError(f"{path}: direction is {about.get('direction')!r} in its metadata; allowed: {', '.join(SIGNS)}")
        found = {row["module"]: row["score"] for row in rows}
        self._same_modules(path, found)
        for name, score in found.items():
            if score is None or math.isnan(score):
                raise UserError(f"{path}: column 'score' of module '{name}' is {'empty' if score is None else 'not a number'}")
        score = np.array([found[name] for name in self.names], dtype=np.float64)
        return {"score": score, "sign": SIGNS[about["direction"]], "batches": about.get("batches")}

    def variant(self, criterion, variant, name):
        """A score file and its allocation: {name: the seed or K, score, fft: set of modules}."""
        score = self.scores(variant["scores"], criterion)["score"]
        path = variant["allocation"]
        value = allocation_file.read(self._given(path, "allocations"))
        budget = value["budget"]
        found = (budget["unit"], budget.get("ratio", budget.get("limit")), value["criterion"])
        wanted = (self.settings["unit"], self.settings["ratio"], criterion)
        for key, one, other in zip(("unit", "ratio", "criterion"), found, wanted, strict=True):
            if one != other:
                raise UserError(f"{path}: {key} is {one!r}, {other!r} was to be diagnosed")
        if value["model"] != self.model:
            raise UserError(f"{path}: of model '{value['model'].get('id')}', not of '{self.model.get('id')}' as modules.json")
        self._same_modules(path, [*value["fft"], *value["lora"]["names"]])
        return {"name": variant[name], "score": score, "fft": set(value["fft"])}

    def _given(self, path, option):
        if str(path) not in self.given[option]:
            raise UserError(f"diagnose settings: {path} is not among the files of --{option}")
        return path

    def _same_modules(self, path, found):
        wrong = sorted(set(found) ^ set(self.names))
        if wrong:
            what = "is missing" if wrong[0] in self.names else "is none of the model's"
            raise UserError(f"{path}: module '{wrong[0]}' {what}; all files must be of the modules in modules.json")
