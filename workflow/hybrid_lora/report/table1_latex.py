"""Table 1 in LaTeX, in the paper's form: a block a model, a line a run, each result with its 95 % interval below it.

Needs the package booktabs. Departs from the paper as the Markdown table does (budgets, the mean over benchmarks) and in
the intervals, which the paper does not give.
"""

from hybrid_lora.report import amounts

_ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def render(rows, benchmarks, digits, notes):
    """A `tabular` with its notes as comments. rows: as `table1` reads them, in the order to be shown; notes: lines."""
    count = 3 + len(benchmarks) + 1
    head = ["Post-training", "Param efficient", r"\#Tunable", *(escape(b["title"]) for b in benchmarks), "Mean"]
    below = ["approach", "approach", "params", *(escape(b["metric"]) for b in benchmarks), ""]
    lines = [*(f"% {note}" for note in notes), r"% \usepackage{booktabs}"]
    lines += [rf"\begin{{tabular}}{{ll{'r' * (count - 2)}}}", r"\toprule", _line(head), _line(below)]
    model = None
    for row in rows:
        if row["model"] != model:
            model = row["model"]
            lines += [r"\midrule", rf"\multicolumn{{{count}}}{{l}}{{\textbf{{{escape(model)}}}}} \\"]
        lines += _run(row, benchmarks, digits)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _run(row, benchmarks, digits):
    placement = f"{row['placement']} ({row['budget']})" if row["budget"] else row["placement"]
    results = [row["results"][b["name"]] for b in benchmarks]
    cells = [row["approach"], placement, amounts.short_count(row["tunable"])]
    values = [_percent(record["value"], digits) for record in results]
    intervals = [_interval(record, digits) for record in results]
    run = rf"{{\scriptsize {escape(row['run'])}}}"
    return [_line([*map(escape, cells), *values, _percent(row["mean"], digits)]), _line([run, "", "", *intervals, ""])]


def _interval(record, digits):
    return rf"{{\scriptsize [{_percent(record['low'], digits)}, {_percent(record['high'], digits)}]}}"


def escape(text):
    """The text with LaTeX's special characters escaped."""
    return "".join(_ESCAPED.get(character, character) for character in str(text))


def _line(cells):
    return " & ".join(cells) + r" \\"


def _percent(share, digits):
    return f"{100 * share:.{digits}f}"
