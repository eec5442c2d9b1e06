"""Statistics of `report diagnose`: do two scores order modules alike, and do two selections hold the same modules?

Undefined values are None, never NaN: a rank correlation with a constant side, a Jaccard index of two empty sets.
"""

import itertools

import numpy as np
import pandas as pd

COVERED = 0.95  # of the bootstrap intervals
FEWEST = 3  # with two modules every rank correlation is 1 or -1


def spearman(first, second):
    """Spearman's rank correlation of two float arrays [modules], ties by mean rank; None where a side is constant."""
    value = _correlations(_ranks(first[None, :]), _ranks(second[None, :]))[0]
    return None if np.isnan(value) else float(value)


def interval(first, second, resamples, seed):
    """(low, high, undefined) of `spearman`: percentile bootstrap over modules, drawn in pairs with replacement.

    Resamples in which a side is constant have no correlation; `undefined` counts them, the percentiles are of the others.
    (None, None, resamples) where none is left.
    """
    count = len(first)
    # The draws depend on seed and number of modules alone: intervals of different criteria are over the same resamples.
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    values = _correlations(_ranks(first[draws]), _ranks(second[draws]))
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None, None, resamples
    low, high = np.quantile(defined, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high), resamples - len(defined)


def jaccard(first, second):
    """Size of the intersection over size of the union of two sets of modules; None where both are empty."""
    union = set(first) | set(second)
    return len(set(first) & set(second)) / len(union) if union else None


def jaccard_by_chance(first, second, modules):
    """About the `jaccard` of two random sets of these two sizes out of `modules`: expected intersection over what it leaves."""
    if not first + second:
        return None
    shared = first * second / modules
    return shared / (first + second - shared)


def pairs(variants):
    """All pairs of a list, each once, in its order."""
    return list(itertools.combinations(variants, 2))


def spread(values):
    """(mean, lowest, highest) of the values that are not None; three None where there is none."""
    known = [value for value in values if value is not None]
    return (sum(known) / len(known), min(known), max(known)) if known else (None, None, None)


def _ranks(rows):
    """Mean ranks within each row of an array [rows, modules]; infinite scores are ranked like others."""
    return pd.DataFrame(rows).rank(axis=1, method="average").to_numpy()


def _correlations(first, second):
    """Pearson correlation row by row, NaN where a row is constant."""
    first, second = (side - side.mean(axis=1, keepdims=True) for side in (first, second))
    squares = (first**2).sum(axis=1) * (second**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (first * second).sum(axis=1) / np.sqrt(squares)
    return np.where(squares > 0, np.clip(values, -1, 1), np.nan)
