"""Paired statistics of two runs on the same problems: difference, interval, and two p-values.

Both tests keep the pairing: a problem is hard or easy for both runs, which an unpaired test would count as noise. The paper
compares single figures; neither test is in it.
"""

import math

import numpy as np

INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
ROUNDING = 1e-12  # means of equal sums in another order differ by less; results differ by more


def resampled_means(values, rng, resamples):
    """Means of `resamples` bootstrap samples of `values` (one number a problem), as an array.

    Resampling problems is drawing how often each distinct value occurs: a multinomial draw, the same in distribution.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)


def summary(difference, draws):
    """{difference, low, high, p_bootstrap} from an observed difference and its bootstrap draws.

    p_bootstrap is twice the smaller share of draws on one side of 0, at most 1; the observed sample is counted among the
    draws, and a draw of no difference on both sides.
    """
    low, high = np.percentile(draws, INTERVAL)
    side = min(np.count_nonzero(draws <= ROUNDING), np.count_nonzero(draws >= -ROUNDING))
    p = min(1.0, 2 * (side + 1) / (len(draws) + 1))
    return {"difference": float(difference), "low": float(low), "high": float(high), "p_bootstrap": float(p)}


def compare(first, second, rng, resamples):
    """(record, draws) of two lists of values in [0, 1], problem by problem; difference = first - second.

    record: {n, first, second, difference, low, high, p_bootstrap, only_first, only_second, p_mcnemar}; the last three are
    None unless every value is 0 or 1, for McNemar's test counts the problems that one run alone solves.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n = len(differences)
    draws = resampled_means(differences, rng, resamples)
    means = {"first": math.fsum(first) / n, "second": math.fsum(second) / n}
    record = {"n": n, **means, **summary(math.fsum(differences) / n, draws), **_mcnemar(first, second)}
    return record, draws


def _mcnemar(first, second):
    if not {*first, *second} <= {0.0, 1.0}:
        return {"only_first": None, "only_second": None, "p_mcnemar": None}
    only_first = sum(a > b for a, b in zip(first, second))
    only_second = sum(a < b for a, b in zip(first, second))
    return {"only_first": only_first, "only_second": only_second, "p_mcnemar": mcnemar(only_first, only_second)}


def mcnemar(only_first, only_second):
    """Exact two-sided p of McNemar's test: of the problems that one run alone solves, each is either's with chance 1/2."""
    total = only_first + only_second
    tail = sum(math.comb(total, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**total)
