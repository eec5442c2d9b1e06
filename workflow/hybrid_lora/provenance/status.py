"""`hybrid_lora status`: a table of runs and their stages, what runs or failed, and what it cost so far."""

import os
import shutil
import sys

from hybrid_lora.config.plan import metrics_file
from hybrid_lora.provenance import records, today
from hybrid_lora.provenance.progress import STATES, Progress

STAGES = ("data", "model", "probe", "scores", "allocation", "training")
COLOURS = {"failed": "31", "running": "36", "stale": "33", "missing": "90", "done": "32"}
SHOWN = 20  # lines about running and failed jobs
GAP = "  "


def run(arguments):
    """configfile, config: as for `snakemake`."""
    with today.read(arguments.configfile, arguments.config) as now:
        lines = list(
            _lines(now, shutil.get_terminal_size((160, 24)).columns, sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        )
    print("\n".join(lines))


def _lines(now, width, colours):
    progress = Progress(now, records.Records(exact=False))
    names = list(now.plan.benchmarks)
    rows, own, everything = [], set(), set()
    for run in now.plan.runs:
        stages = _stages(now, run, names)
        mine = [*stages["training"], *(job for name in names for job in stages[name])]
        own.update(mine)
        everything.update(job for jobs in stages.values() for job in jobs)
        cells = [progress.cell(stages[name]).text() for name in (*STAGES, *names)]
        rows.append([run, *cells, *_cost(progress.cost(mine))])
    yield from _table([["run", *STAGES, *names, "hours", "GPU h", "peak GiB"], *rows], width, colours)
    yield ""
    report = [job for job in now.upstream(map(now.producer, now.target("all"))) if job.stage == "report"]
    yield f"report: {progress.cell(report).text()}"
    yield f"cost so far: {_sum(progress.cost(own))}; shared by runs {_sum(progress.cost(everything - own))}"
    everything.update(report)
    yield f"in all: {_sum(progress.cost(everything))}; {_counts(progress, everything, len(now.plan.runs))}"
    notes = [progress.notes[job] for job in everything if job in progress.notes]
    yield from sorted(notes)[:SHOWN]
    if len(notes) > SHOWN:
        yield f"and {len(notes) - SHOWN} more that run or failed"


def _stages(now, run, benchmarks):
    """{stage or benchmark: jobs} of one run."""
    found = {name: [] for name in (*STAGES, *benchmarks)}
    roots = [metrics_file(run, name) for name in benchmarks]
    roots += [path for path in now.plan.trainable_files() if path.split("/")[2] == run]
    for job in now.upstream([now.producer(path) for path in roots]):
        found[job.wildcards["benchmark"] if job.stage == "evaluation" else job.stage].append(job)
    return found


def _cost(cost):
    return [f"{cost.hours:.2f}", f"{cost.gpu_hours:.2f}", f"{cost.peak_mb / 1024:.1f}"]


def _sum(cost):
    return f"{cost.hours:.2f} h, {cost.gpu_hours:.2f} GPU h, at most {cost.peak_mb / 1024:.1f} GiB"


def _counts(progress, jobs, runs):
    states = [progress.state(job) for job in jobs]
    told = ", ".join(f"{states.count(state)} {state}" for state in reversed(STATES) if state in states)
    return f"{runs} runs, {len(states)} jobs: {told}"


def _table(rows, width, colours):
    """Aligned columns; where they do not fit, states are cut to a letter or two and explained."""
    if _width(rows) > width:
        rows = [[_short(cell) for cell in row] for row in rows]
    if _width(rows) > width:
        rows = [[rows[0][0], *(cell[:8] for cell in rows[0][1:])], *rows[1:]]
    sizes = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            cell.ljust(size) if i == 0 or i <= len(row) - 4 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, sizes))
        ]
        yield GAP.join(_coloured(cell) if colours else cell for cell in cells).rstrip()
    if any(cell == "d" for row in rows for cell in row):
        yield "d done, s stale, r running, F failed, m missing"


def _width(rows):
    sizes = [max(map(len, column)) for column in zip(*rows)]
    return sum(sizes) + len(GAP) * (len(sizes) - 1)


def _short(cell):
    state, _, count = cell.partition(" ")
    return f"{'F' if state == 'failed' else state[0]}{' ' + count if count else ''}" if state in STATES else cell


def _coloured(cell):
    state = cell.split(" ")[0]
    return f"\033[{COLOURS[state]}m{cell}\033[0m" if state in COLOURS else cell
