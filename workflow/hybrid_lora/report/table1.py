"""Table 1: every run's tunable parameters and its result on each benchmark, in percent, grouped by model.

As in the paper, with one column more (the mean over benchmarks) and each run's budget, since a reader cannot compare
placements without it. The CSV holds exact parameter counts and the 95 % intervals, as the LaTeX table does (`table1_latex`); the
Markdown table shows them where the settings ask for it. Nothing is rounded twice.
"""

import csv
import io

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_text
from hybrid_lora.contracts import metrics as metrics_file
from hybrid_lora.report import amounts, table1_latex
from hybrid_lora.report.settings import need

TITLES = {
    "math-500": "Math-500",
    "aime-24": "AIME-24",
    "aime-25": "AIME-25",
    "mmlu-pro": "MMLU-Pro",
    "gpqa": "GPQA",
    "leetcode": "LeetCodeDataset",
}
APPROACHES = {
    "full-ft": "Full-FT",
    "lora": "LoRA",
    "lora-ffn": "LoRA-FFN",
    "adalora": "AdaLoRA",
    "autolora": "AutoLoRA",
    "lora-drop": "LoRA-Drop",
    "hybrid": "Hybrid-LoRA",
    **{f"hybrid-{number}": f"Hybrid-LoRA-{number}" for number in (1, 2, 3, 4)},
}
UNTRAINED = {"io": "IO", "cot": "COT"}
ROW_KEYS = ("run", "model", "method", "objective", "budget", "seed", "metrics", "tunable")
NONE = (None, "", "-", "none")


def run(settings, metrics, tunable, csv_path, md_path, tex_path=None):
    """settings: {digits, unit (of the budgets: params | modules | absolute), benchmarks: [{name}],
    rows: [{run, model, method, objective, budget, seed, metrics: {benchmark: path}, tunable: path or null}]}, and
    optionally intervals: true to show them in the Markdown table too. tex_path: where the LaTeX table goes, None for none.

    Paths in the settings must be among `metrics` and `tunable`, so that manifests name all that the numbers come from.
    """
    need(settings, ("digits", "rows", "benchmarks"), "table1 settings")
    rows = [_read(row, settings, set(map(str, metrics)), set(map(str, tunable))) for row in settings["rows"]]
    if not rows:
        raise UserError("table1: the runs table has no run to show")
    benchmarks = [_benchmark(benchmark["name"], rows) for benchmark in settings["benchmarks"]]
    write_text(csv_path, _csv(rows, benchmarks, settings))
    write_text(md_path, _markdown(rows, benchmarks, settings))
    if tex_path is not None:
        notes = _notes(rows, {**settings, "intervals": True})
        write_text(tex_path, table1_latex.render(_grouped(rows), benchmarks, settings["digits"], notes))
    inputs = {"metrics": metrics, "tunable": tunable}
    for artifact in filter(None, (csv_path, md_path, tex_path)):
        manifest.write_beside(artifact, "report.table1", settings, inputs, code.sources("hybrid_lora.report.table1"))


def _read(row, settings, metrics, tunable):
    """The row with its files' contents: {..., results: {benchmark: record}, mean: share, tunable: integer}."""
    need(row, ROW_KEYS, f"table1 settings, run '{row.get('run')}'")
    results = {}
    for benchmark in settings["benchmarks"]:
        name = benchmark["name"]
        need(row["metrics"], [name], f"table1 settings, metrics of run '{row['run']}'")
        results[name] = metrics_file.read(_given(row["metrics"][name], metrics, "metrics"))
    mean = sum(record["value"] for record in results.values()) / len(results)
    return {**row, "results": results, "mean": mean, "tunable": _tunable(row["tunable"], tunable), **_names(row, settings)}


def _benchmark(name, rows):
    """{name, title, metric}: the metric is what the files say they hold, and must be the same in all."""
    first, metric = rows[0]["run"], rows[0]["results"][name]["metric"]
    for row in rows:
        if row["results"][name]["metric"] != metric:
            other = row["results"][name]["metric"]
            raise UserError(f"table1: benchmark '{name}' is {metric} in run '{first}' but {other} in run '{row['run']}'")
    return {"name": name, "title": TITLES.get(name, name), "metric": metric}


def _given(path, paths, option):
    if str(path) not in paths:
        raise UserError(f"table1 settings: {path} is not among the files of --{option}")
    return path


def _tunable(path, paths):
    if path is None:
        return 0
    value = read_json(_given(path, paths, "tunable"))
    total = value.get("total") if isinstance(value, dict) else None
    if not isinstance(total, int):
        raise UserError(f"{path}: key 'total' must be a number of parameters; not a trainable.json of the training stage")
    return total


def _names(row, settings):
    trained = row["objective"] not in NONE
    method = row["method"]
    approach = row["objective"].upper() if trained else UNTRAINED.get(method, method)
    placement = APPROACHES.get(method, method) if trained else "-"
    return {"approach": approach, "placement": placement, "budget": _budget(row, settings)}


def _budget(row, settings):
    if row["budget"] in NONE:
        return None
    if settings.get("unit") not in amounts.BUDGETS:
        raise UserError(
            f"table1 settings: key 'unit' is {settings.get('unit')!r}; run '{row['run']}' has a budget, whose unit is one of "
            + ", ".join(amounts.BUDGETS)
        )
    return amounts.budget(row["budget"], settings["unit"])


def _csv(rows, benchmarks, settings):
    head = ["model", "run", "post_training", "param_efficient", "budget", "seed", "tunable_params"]
    for benchmark in benchmarks:
        head += [f"{benchmark['name']} {benchmark['metric']}", f"{benchmark['name']} low", f"{benchmark['name']} high"]
        head += [f"{benchmark['name']} unjudged"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "mean"])
    for row in _grouped(rows):
        cells = [row["model"], row["run"], row["approach"], row["placement"], row["budget"] or "", row["seed"], row["tunable"]]
        for benchmark in benchmarks:
            record = row["results"][benchmark["name"]]
            cells += [_percent(record[key], settings) for key in ("value", "low", "high")] + [record["unjudged"]]
        writer.writerow([*cells, _percent(row["mean"], settings)])
    return text.getvalue()


def _markdown(rows, benchmarks, settings):
    head = ["Post-training approach", "Param efficient approach", "#Tunable params"]
    head += [f"{b['title']}<br>{b['metric']}" for b in benchmarks] + ["Mean", "Run"]
    lines = [_line(head), _line([":--"] * 2 + ["--:"] * (len(benchmarks) + 2) + [":--"])]
    model = None
    for row in _grouped(rows):
        if row["model"] != model:
            model = row["model"]
            lines.append(_line([f"**{model}**"] + [""] * (len(head) - 1)))
        placement = f"{row['placement']} ({row['budget']})" if row["budget"] else row["placement"]
        results = [_result(row["results"][b["name"]], settings) for b in benchmarks]
        mean = _percent(row["mean"], settings)
        lines.append(_line([row["approach"], placement, amounts.short_count(row["tunable"]), *results, mean, row["run"]]))
    return "\n".join([*lines, "", *_notes(rows, settings)]) + "\n"


def _line(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _result(record, settings):
    value = _percent(record["value"], settings)
    if not settings.get("intervals"):
        return value
    return f"{value} [{_percent(record['low'], settings)}, {_percent(record['high'], settings)}]"


def _notes(rows, settings):
    notes = ["All results in percent; *Mean* is over the benchmarks. *#Tunable params* counts trained parameters."]
    if any(row["budget"] for row in rows):
        notes += [f"Budgets of full fine-tuning are all in one unit: {amounts.IN_WORDS[settings['unit']]}."]
    if settings.get("intervals"):
        notes += ["In brackets: 95 % interval, bootstrap over problems."]
    unjudged = sum(record["unjudged"] for row in rows for record in row["results"].values())
    if unjudged:
        notes += [f"The grader failed on {unjudged} completions (counted as unsolved; the CSV says where)."]
    return [" ".join(notes)]


def _grouped(rows):
    """Rows by model, models in order of first appearance, runs in the given order."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    return sorted(rows, key=lambda row: models.index(row["model"]))


def _percent(share, settings):
    return f"{100 * share:.{settings['digits']}f}"
