"""grades.parquet of many runs -> paired comparisons of runs and what seeds change, as CSV files and one Markdown page.

A pair is compared problem by problem (see `paired`), on each benchmark and on the mean over benchmarks, which is
resampled within each benchmark. Runs that differ in the seed alone form a group: mean and deviation of their results over
seeds, and pairs of groups, where a problem's value is its mean over the group's seeds. Intervals are over problems: how
far results vary with the seed is what the deviation over seeds says. The paper gives single figures without any of this.
"""

import math
import statistics
import sys

import numpy as np

from hybrid_lora.common import code, manifest, seeds
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_text
from hybrid_lora.contracts import grades
from hybrid_lora.evaluation import compare_text, metrics, paired

KEYS = ("benchmarks", "runs", "pairs", "groups", "resamples", "digits", "seed")
MEAN = "mean"
NO_MCNEMAR = dict.fromkeys(("only_first", "only_second", "p_mcnemar"))


def run(arguments):
    """settings: {benchmarks: [{name, k, samples}], runs: {run: {benchmark: path of its grades}}, pairs: [[first, second]],
    groups: {name: [run, ...]}, resamples, digits, seed}; a pair's members are runs or groups.

    Paths in the settings must be among `arguments.grades`, so that manifests name all that the numbers come from.
    """
    settings = arguments.settings
    for key in KEYS:
        if key not in settings:
            raise UserError(f"evaluation compare settings: key '{key}' is missing; needed are {', '.join(KEYS)}")
    values = {name: _values(name, files, settings, set(map(str, arguments.grades))) for name, files in settings["runs"].items()}
    kinds = {benchmark["name"]: _metric(benchmark, settings, values) for benchmark in settings["benchmarks"]}
    for name, members in settings["groups"].items():
        values[name] = _averaged([_member(values, member, f"group '{name}'") for member in members], name)
    pairs = [record for first, second in settings["pairs"] for record in pair(first, second, values, kinds, settings)]
    spread = [record for name in settings["groups"] for record in over_seeds(name, values, kinds, settings)]
    write_text(arguments.csv, compare_text.pairs_csv(pairs, settings["digits"]))
    write_text(arguments.seeds, compare_text.seeds_csv(spread, settings["digits"]))
    write_text(arguments.md, compare_text.page(pairs, spread, settings))
    closure = code.sources("hybrid_lora.evaluation.compare")
    for artifact in (arguments.csv, arguments.seeds, arguments.md):
        manifest.write_beside(artifact, "evaluation.compare", settings, {"grades": arguments.grades}, closure)
    print(f"compare: {len(settings['pairs'])} pairs, {len(settings['groups'])} groups of seeds", file=sys.stderr, flush=True)


def _values(name, files, settings, given):
    """{benchmark: {id: value in [0, 1]}} of one run."""
    found = {}
    for benchmark in settings["benchmarks"]:
        path = files.get(benchmark["name"])
        if path is None:
            raise UserError(f"evaluation compare settings: run '{name}' has no grades of benchmark '{benchmark['name']}'")
        if str(path) not in given:
            raise UserError(f"evaluation compare settings: {path} is not among the files of --grades")
        k, samples, _ = metrics.check({"seed": 0, **benchmark})
        values = metrics.problem_values(grades.read(path), k, samples, path)
        if not values:
            raise UserError(f"{path}: holds no verdicts")
        found[benchmark["name"]] = values
    return found


def _metric(benchmark, settings, values):
    """The metric's name; UserError where two runs were evaluated on other problems."""
    name, (first, *others) = benchmark["name"], values or [None]
    if first is None:
        raise UserError("evaluation compare settings: no run to compare")
    for other in others:
        difference = values[first][name].keys() ^ values[other][name].keys()
        if difference:
            raise UserError(
                f"{settings['runs'][other][name]}: not of the same problems as {settings['runs'][first][name]} "
                f"({len(difference)} ids in one alone, e.g. '{min(difference)}'); evaluate both on one benchmark"
            )
    return metrics.metric_name(benchmark.get("kind", ""), benchmark["k"])


def _member(values, name, where):
    if name not in values:
        raise UserError(f"evaluation compare settings, {where}: no run or group '{name}', allowed: {', '.join(values)}")
    return values[name]


def _averaged(members, name):
    if len(members) < 2:
        raise UserError(f"evaluation compare settings: group '{name}' has {len(members)} runs, needs two or more")
    first = members[0]
    return {b: {i: math.fsum(m[b][i] for m in members) / len(members) for i in first[b]} for b in first}


def pair(first, second, values, kinds, settings):
    """Records of one pair, one a benchmark and last their mean."""
    a, b = (_member(values, name, f"pair {first}, {second}") for name in (first, second))
    solved = {entry["name"]: entry["k"] == entry["samples"] for entry in settings["benchmarks"]}  # or not; no estimate between
    grouped = {first, second} & settings["groups"].keys()
    records, every = [], []
    for benchmark, metric in kinds.items():
        rng = np.random.default_rng(seeds.derive(settings["seed"], "paired bootstrap", first, second, benchmark))
        ids = sorted(a[benchmark])
        record, draws = paired.compare([a[benchmark][i] for i in ids], [b[benchmark][i] for i in ids], rng, settings["resamples"])
        if grouped or not solved[benchmark]:
            record |= NO_MCNEMAR
        records.append({"a": first, "b": second, "benchmark": benchmark, "metric": metric, **record})
        every.append(draws)
    if len(records) > 1:
        means = {key: statistics.fmean(record[key] for record in records) for key in ("first", "second", "difference")}
        whole = {**means, **paired.summary(means["difference"], np.mean(every, axis=0))}
        n = sum(record["n"] for record in records)
        records.append({"a": first, "b": second, "benchmark": MEAN, "metric": "", "n": n, **whole, **NO_MCNEMAR})
    return records


def over_seeds(name, values, kinds, settings):
    """Records of a group of seeds, one a benchmark and last their mean: {group, benchmark, seeds, mean, sd, least, most}."""
    members = settings["groups"][name]
    results = {b: [statistics.fmean(values[member][b].values()) for member in members] for b in kinds}
    if len(kinds) > 1:
        results[MEAN] = [statistics.fmean(column) for column in zip(*results.values())]
    return [
        {
            "group": name,
            "benchmark": benchmark,
            "metric": kinds.get(benchmark, ""),
            "seeds": len(members),
            "mean": statistics.fmean(found),
            "sd": statistics.stdev(found),
            "least": min(found),
            "most": max(found),
        }
        for benchmark, found in results.items()
    ]
