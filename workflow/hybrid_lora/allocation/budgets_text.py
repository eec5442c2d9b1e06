"""The budgets table as CSV and Markdown, and the sentences under it, which follow from its numbers alone."""

import csv
import io

COLUMNS = (
    "shape",
    "total_params",
    "candidates",
    "candidate_params",
    "placement",
    "unit",
    "amount",
    "overflow",
    "order",
    "modules_full",
    "fft_params",
    "lora_params",
    "tunable_params",
    "paper_params",
    "off",
)
TITLES = {"full-ft": "Full-FT", "lora": "LoRA on all", "lora-ffn": "LoRA-FFN", "hybrid": "Hybrid-LoRA"}
ORDERS = {
    "smallest": "smallest modules first",
    "largest": "largest modules first",
    "random": "random, median",
    "figure-2": "Figure 2's picture",
}
TOLERANCE = 0.02  # of the paper's count: its three digits are good to half a percent


def csv_text(rows):
    """All rows with exact numbers; cells that do not apply are empty, `off` is (ours / paper's) - 1."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "off": "" if row["off"] is None else f"{row['off']:.6f}"})
    return text.getvalue()


def markdown(rows, fitted, settings):
    """The table, shape by shape, and the sentences; see `sentences` for `fitted`."""
    head = ["Placement", "Budget", "Order of selection", "Modules in full", "FFT", "LoRA", "Tunable", "Paper", "Off"]
    lines = [_line(head), _line([":--"] * 3 + ["--:"] * 6)]
    shape = None
    for row in rows:
        if row["shape"] != shape:
            shape = row["shape"]
            title = f"**Qwen2.5 {shape}**: {_millions(row['total_params'])}"
            lines.append(_line([title, f"candidates {_millions(row['candidate_params'])}", *[""] * 7]))
        full = f"{row['modules_full']} of {row['candidates']}" if row["placement"] != "full-ft" else "everything"
        counts = [_millions(row[key]) for key in ("fft_params", "lora_params", "tunable_params", "paper_params")]
        off = "" if row["off"] is None else f"{100 * row['off']:+.1f} %"
        lines.append(_line([TITLES[row["placement"]], _budget(row), ORDERS.get(row["order"], ""), full, *counts, off]))
    return "\n".join([*lines, "", *sentences(rows, fitted, settings)]) + "\n"


def sentences(rows, fitted, settings):
    """Plain sentences on which rows meet the paper's counts; every one is worked out from the numbers given.

    fitted: for each shape with a paper's count, the beginning of Figure 2's order that comes nearest to it, as
    {shape, modules_full, modules_share, params_share, tunable_params}.
    """
    readings = _by_reading(rows, ("params", "modules"))  # of the ratio; a limit in parameters is none
    return [
        *_legend(settings),
        "",
        _near(rows),
        *_conclusion(readings, f"{100 * settings['ratio']:.3g} %"),
        *[_limit(rows, settings) for rows in _by_reading(rows, ("absolute",)).values() if rows[0]["order"] == "figure-2"],
        *([_fitted(fitted)] if fitted else []),
        *[_lora_ffn(row) for row in rows if row["placement"] == "lora-ffn" and row["off"] is not None],
        "No preset of this repository is fitted to the paper's counts: none gives its budget as a number of parameters.",
    ]


def _legend(settings):
    overflow = "stops" if settings["overflow"] == "stop" else "goes on to smaller ones further down"
    yield "M is a million parameters. Candidates are the seven linears of every layer, biases included."
    yield f"LoRA has rank {settings['lora']['rank']}. At the first module that does not fit, the greedy selection {overflow}."


def _near(rows):
    near = [row for row in rows if _meets(row)]
    counted = sum(row["off"] is not None for row in rows)
    listed = "; ".join(_name(row) for row in near) or "none"
    return f"Within {_tolerance()} of the paper's count are {len(near)} of the {counted} rows that it has one for: {listed}."


def _by_reading(rows, units):
    """{(unit, order): rows of the shapes that the paper has a count for}."""
    found = {}
    for row in rows:
        if row["unit"] in units and row["off"] is not None:
            found.setdefault((row["unit"], row["order"]), []).append(row)
    return found


def _conclusion(readings, ratio):
    sizes = ", ".join(dict.fromkeys(row["shape"] for rows in readings.values() for row in rows))
    counts = [key for key, rows in readings.items() if all(map(_meets, rows))]
    named = "; ".join(f"{_unit(unit)}, {ORDERS[order]}" for unit, order in counts) or "none"
    near = f"within {_tolerance()} of the paper's counts at all of {sizes}"
    yield f"Readings of {ratio} (unit and order) that come {near}: {named}."
    for (unit, order), rows in readings.items():
        if order == "figure-2":
            yield f"With Figure 2's picture and {ratio} as a {_unit(unit)} the count is {_counts(rows)}."
    both = [_unit(unit) for unit, order in counts if order == "figure-2"]
    if both:
        yield f"So {ratio} as a {' and as a '.join(both)} fits both the paper's counts at all sizes and Figure 2's picture."
    else:
        yield f"So no single reading of {ratio} fits both the paper's counts at all sizes and Figure 2's picture."


def _limit(rows, settings):
    if settings["absolute"] is None:
        what = "The limits in parameters are no reading but the paper's counts less LoRA on all modules"
    else:
        what = "The limit in parameters is the one given"
    return f"{what}; with Figure 2's picture the count is {_counts(rows)}."


def _fitted(fitted):
    shown = ", ".join(
        f"{f['modules_full']} modules at {f['shape']} ({100 * f['params_share']:.1f} % of parameters, "
        f"{100 * f['modules_share']:.1f} % of modules, {_millions(f['tunable_params'])})"
        for f in fitted
    )
    return f"Going down Figure 2's order one comes nearest to the paper's counts with {shown}."


def _counts(rows):
    return ", ".join(f"{_millions(r['tunable_params'])} at {r['shape']} ({100 * r['off']:+.1f} %)" for r in rows)


def _lora_ffn(row):
    ours, paper = _millions(row["tunable_params"]), _millions(row["paper_params"])
    text = f"LoRA-FFN at {row['shape']} has {ours}, the paper's count is {paper}"
    if _meets(row):
        return f"{text}: within {_tolerance()}."
    if row["fft_params"] > row["paper_params"] * (1 + TOLERANCE):
        return f"{text}; the attention modules alone are {_millions(row['fft_params'])}, so no rank of LoRA reproduces it."
    return f"{text}; with this rank of LoRA it is not reproduced."


def _meets(row):
    return row["off"] is not None and abs(row["off"]) <= TOLERANCE


def _name(row):
    parts = [row["shape"], TITLES[row["placement"]]]
    if row["order"]:
        parts += [_unit(row["unit"]), ORDERS[row["order"]]]
    return " ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])


def _unit(unit):
    return {"params": "share of parameters", "modules": "share of modules", "absolute": "limit in parameters"}[unit]


def _budget(row):
    if row["unit"] is None:
        return "-"
    if row["unit"] == "absolute":
        return _millions(row["amount"])
    return f"{100 * row['amount']:.3g} % of {'parameters' if row['unit'] == 'params' else 'modules'}"


def _millions(number):
    return "" if number is None else f"{number / 1e6:.2f} M"


def _tolerance():
    return f"{100 * TOLERANCE:.3g} %"


def _line(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
