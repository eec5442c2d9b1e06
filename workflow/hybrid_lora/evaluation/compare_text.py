"""The records of `compare` as CSV and Markdown, in percent; p-values and counts as they are."""

import csv
import io

# low and high: 95 % interval of the difference a - b; only_a: problems that a alone solves
PAIRS = (
    *("a", "b", "benchmark", "metric", "n", "value_a", "value_b"),
    *("difference", "low", "high", "p_bootstrap", "only_a", "only_b", "p_mcnemar"),
)
SEEDS = ("group", "benchmark", "metric", "seeds", "mean", "sd", "least", "most")


def pairs_csv(records, digits):
    """One line a pair and benchmark, columns PAIRS; empty where McNemar's test does not apply."""
    return _csv(PAIRS, [[cells[name] for name in PAIRS] for cells in (_pair(record, digits) for record in records)])


def seeds_csv(records, digits):
    """One line a group and benchmark, columns SEEDS."""
    return _csv(SEEDS, [[cells[name] for name in SEEDS] for cells in (_seeds(record, digits) for record in records)])


def page(pairs, spread, settings):
    """Both tables and what their numbers mean."""
    lines = ["### Pairs of runs", ""]
    head = ["a", "b", "Benchmark", "n", "a %", "b %", "a - b [95 %]", "p, bootstrap", "p, McNemar", "a alone, b alone"]
    lines += _table(head, [_pair_cells(_pair(record, settings["digits"])) for record in pairs], 3)
    lines += ["", f"Paired over problems, {settings['resamples']} bootstrap samples. {_LEGEND}"]
    if spread:
        lines += ["", "### Over seeds", ""]
        head = ["Group", "Benchmark", "Seeds", "Mean %", "Deviation", "Least", "Most"]
        cells = [_seeds(record, settings["digits"]) for record in spread]
        lines += _table(head, [[c[k] for k in SEEDS if k != "metric"] for c in cells], 2)
        groups = "; ".join(f"{name}: {', '.join(members)}" for name, members in settings["groups"].items())
        lines += ["", f"Deviation is that of a sample (n - 1). {groups}."]
    return "\n".join(lines) + "\n"


_LEGEND = (
    "*McNemar* is the exact test on problems that one run alone solves; it needs each problem solved or not, so it is left out "
    "where pass@k is estimated from more samples than k, for groups of seeds and for the mean. No p-value is corrected for the "
    "number of comparisons. The mean is over benchmarks."
)


def _pair(record, digits):
    """The cells of one record by the names of PAIRS."""
    percents = {name: _percent(record[key], digits) for name, key in _PERCENTS.items()}
    counts = {name: "" if record[key] is None else record[key] for name, key in _COUNTS.items()}
    tests = {key: "" if record[key] is None else f"{record[key]:.4g}" for key in ("p_bootstrap", "p_mcnemar")}
    return {**{key: record[key] for key in ("a", "b", "benchmark", "metric", "n")}, **percents, **counts, **tests}


_PERCENTS = {"value_a": "first", "value_b": "second", "difference": "difference", "low": "low", "high": "high"}
_COUNTS = {"only_a": "only_first", "only_b": "only_second"}


def _pair_cells(cells):
    interval = f"{cells['difference']} [{cells['low']}, {cells['high']}]"
    alone = f"{cells['only_a']}, {cells['only_b']}" if cells["p_mcnemar"] else "-"
    values = [cells[key] for key in ("a", "b", "benchmark", "n", "value_a", "value_b")]
    return [*values, interval, cells["p_bootstrap"], cells["p_mcnemar"] or "-", alone]


def _seeds(record, digits):
    plain = {key: record[key] for key in ("group", "benchmark", "metric", "seeds")}
    return plain | {key: _percent(record[key], digits) for key in ("mean", "sd", "least", "most")}


def _percent(share, digits):
    text = f"{100 * share:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text  # no -0.0


def _csv(head, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _table(head, rows, texts):
    """Markdown lines; the first `texts` columns are flush left."""
    marks = [":--"] * texts + ["--:"] * (len(head) - texts)
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (head, marks, *rows)]
