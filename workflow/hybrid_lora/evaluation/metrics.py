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

RESAMPLES = 10_000
GROUPS = ("subject", "level", "category", "difficulty", "Subdomain")
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
    counts = collections.Counter(verdict["id"] for verdict in verdicts)
    if not problems or set(counts) != {problem["id"] for problem in problems}:
        raise UserError(f"{path}: its ids are not those of the benchmark ({len(counts)} against {len(problems)}); grade it again")
    for name, count in sorted(counts.items()):
        if count != samples:
            raise UserError(f"{path}: id '{name}' has {count} samples; the benchmark's key 'samples' says {samples}")
    right = collections.Counter(verdict["id"] for verdict in verdicts if verdict["correct"])
    values = {problem["id"]: pass_at(k, samples, right[problem["id"]]) for problem in problems}
    default = "accuracy" if kind == "choice" and k == 1 else f"pass@{k}"
    return {
        "metric": settings.get("metric") or default,
        **interval(list(values.values()), seeds.derive(seed, "bootstrap")),
        "k": k,
        "samples": samples,
        "truncated": sum(row["finish_reason"] == "length" for row in written),
        "unjudged": sum(verdict["correct"] is None for verdict in verdicts),
        "errors": dict(sorted(collections.Counter(v["error"].split(":")[0] for v in verdicts if v["error"]).items())),
        "groups": groups(problems, values, seed),
    }


def check(settings):
    """(k, samples, seed); UserError naming the key that cannot be used."""
    for key in KEYS:
        if isinstance(settings.get(key), bool) or not isinstance(settings.get(key), int):
            raise UserError(f"evaluation metrics settings: key '{key}' must be an integer, is {settings.get(key)!r}")
    k, samples = settings["k"], settings["samples"]
    if not 1 <= k <= samples:
        raise UserError(f"evaluation metrics settings: k is {k}, allowed are 1 to samples ({samples})")
    return k, samples, settings["seed"]


def pass_at(k, samples, correct):
    """Unbiased estimate of the chance that at least one of k samples is correct, from `correct` of `samples`."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def interval(values, seed):
    """{value, low, high, n}: mean over problems and its 95 % percentile bootstrap interval.

    Resampling problems is drawing how often each distinct value occurs: a multinomial draw, the same in distribution.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n = len(values)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES) @ distinct / n
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(math.fsum(values) / n), "low": float(low), "high": float(high), "n": n}


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
