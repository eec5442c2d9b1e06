"""grades.parquet -> metrics.json: pass@k or accuracy with a 95 % interval, in all and by the benchmark's groups.

pass@k is the unbiased estimator 1 - C(s-c, k) / C(s, k) of s samples with c correct, averaged over problems; with s = k
it is the share of problems with a correct sample. The paper does not say how its pass@4 is estimated. A completion that
could not be judged counts as not correct. The interval is a percentile bootstrap over problems.
"""

import collections
import math
import sys

import numpy as np

from hybrid_lora.common import code, manifest, seeds
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks, completions, grades
from hybrid_lora.contracts import metrics as contract
from hybrid_lora.evaluation import paired

RESAMPLES = 10_000
GROUPS = ("subject", "level", "category", "difficulty", "High-level domain", "Subdomain")
KEYS = ("k", "samples", "seed")


def run(arguments):
    """Compute, write `arguments.out` and its manifest, and say the value on stderr."""
    problems, kind = benchmarks.read(arguments.benchmark)
    verdicts, written = grades.read(arguments.grades), completions.read(arguments.completions)
    if {(g["id"], g["sample"]) for g in verdicts} != {(c["id"], c["sample"]) for c in written} or len(verdicts) != len(written):
        raise UserError(f"{arguments.grades}: ids or samples differ from those of {arguments.completions}; grade it again")
    record = compute(problems, kind, verdicts, written, arguments.settings, arguments.grades)
    contract.write(arguments.out, record)
    manifest.write_beside(
        arguments.out,
        stage="evaluation.metrics",
        settings=arguments.settings,
        inputs={"grades": arguments.grades, "completions": arguments.completions, "benchmark": arguments.benchmark},
        code=code.sources("hybrid_lora.evaluation.metrics"),
    )
    shown = "{metric} {value:.4f} [{low:.4f}, {high:.4f}] n={n}".format(**record)
    print(f"metrics {arguments.benchmark.stem}: {shown}", file=sys.stderr, flush=True)


def compute(problems, kind, verdicts, written, settings, path="grades"):
    """The metrics record. settings: {k, samples, seed, metric (optional: its name)}; path: named in errors."""
    k, samples, seed = check(settings)
    values = problem_values(verdicts, k, samples, path)
    ids = [problem["id"] for problem in problems]
    if len(set(ids)) != len(ids):
        raise UserError(
            f"{path}: its benchmark has the id '{collections.Counter(ids).most_common(1)[0][0]}' twice; make it again"
        )
    if values.keys() ^ set(ids):
        example = min(values.keys() ^ set(ids), key=str)
        what = f"its ids are not those of the benchmark ({len(values)} against {len(ids)}, e.g. '{example}' is in one alone)"
        raise UserError(f"{path}: {what}; grade it again")
    return {
        "metric": settings.get("metric") or metric_name(kind, k),
        **interval(list(values.values()), seeds.derive(seed, "bootstrap")),
        "k": k,
        "samples": samples,
        "truncated": sum(row["finish_reason"] == "length" for row in written),
        "unjudged": sum(verdict["correct"] is None for verdict in verdicts),
        "errors": dict(sorted(collections.Counter(v["error"].split(":")[0] for v in verdicts if v["error"]).items())),
        "groups": groups(problems, values, seed),
    }


def problem_values(verdicts, k, samples, path):
    """{id: pass@k} of the rows of a grades file, named in errors; UserError unless each id has `samples` different samples."""
    seen = collections.defaultdict(set)
    for verdict in verdicts:
        name, sample = verdict["id"], verdict["sample"]
        if name is None or sample is None or sample in seen[name]:
            what = "has no id or sample" if name is None or sample is None else "stands there twice"
            raise UserError(f"{path}: id '{name}', sample {sample} {what}; not a file of evaluation grade, grade it again")
        seen[name].add(sample)
    for name in sorted(seen):
        if len(seen[name]) != samples:
            raise UserError(f"{path}: id '{name}' has {len(seen[name])} samples; the benchmark's key 'samples' says {samples}")
    right = collections.Counter(verdict["id"] for verdict in verdicts if verdict["correct"])
    return {name: pass_at(k, samples, right[name]) for name in seen}


def check(settings):
    """(k, samples, seed); UserError naming the key that cannot be used."""
    for key in KEYS:
        if isinstance(settings.get(key), bool) or not isinstance(settings.get(key), int):
            raise UserError(f"evaluation metrics settings: key '{key}' must be an integer, is {settings.get(key)!r}")
    k, samples = settings["k"], settings["samples"]
    if not 1 <= k <= samples:
        raise UserError(f"evaluation metrics settings: k is {k}, allowed are 1 to samples ({samples})")
    return k, samples, settings["seed"]


def metric_name(kind, k):
    """`accuracy` for one answer to a choice question, else `pass@k`."""
    return "accuracy" if kind == "choice" and k == 1 else f"pass@{k}"


def pass_at(k, samples, correct):
    """Unbiased estimate of the chance that at least one of k samples is correct, from `correct` of `samples`."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def interval(values, seed):
    """{value, low, high, n}: mean over problems and its 95 % percentile bootstrap interval."""
    draws = paired.resampled_means(values, np.random.default_rng(seed), RESAMPLES)
    low, high = np.percentile(draws, paired.INTERVAL)
    return {"value": float(math.fsum(values) / len(values)), "low": float(low), "high": float(high), "n": len(values)}


def groups(problems, values, seed):
    """{column: {group: {value, low, high, n}}} for the GROUPS that the benchmark has."""
    found = {}
    for column in GROUPS:
        if column not in problems[0]:
            continue
        members = collections.defaultdict(list)
        for problem in problems:
            members["none" if problem[column] is None else str(problem[column])].append(values[problem["id"]])
        found[column] = {name: interval(members[name], seeds.derive(seed, "bootstrap", column, name)) for name in sorted(members)}
    return found
