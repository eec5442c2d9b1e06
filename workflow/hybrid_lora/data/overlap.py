"""A corpus against all benchmarks: which rows' prompts share n-grams with which problems (see `ngrams`), as a report.

It says what shares text, which is not always the same problem: two generated stories with other numbers may share 13 words.
`corpora.*.decontaminate` leaves such rows out when the corpus is made; nothing is left out here.
"""

import sys
from collections import Counter, defaultdict

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_json
from hybrid_lora.contracts import corpus, overlap
from hybrid_lora.data import ngrams
from hybrid_lora.data import settings as checks

SPLITS = ("train", "val")


def run(settings, train, val, benchmarks, out, summary):
    """Write `out` (contracts.overlap), `summary` (JSON) and their manifests. settings: {n}; benchmarks: files.

    summary: {n, rows: {train, val}, overlapping: {train, val}, benchmarks: {name: {problems, found, train, val}}}: rows
    read, rows that share text with any problem; of each benchmark its problems, those found, and the rows they are in.
    """
    n = checks.number(settings, "n", least=1)
    if not benchmarks:
        raise UserError("data overlap: no benchmark to compare with; --benchmarks names their files")
    index = ngrams.Index(benchmarks, n)
    rows, found = Counter(), []
    for split, path in zip(SPLITS, (train, val)):
        for row in corpus.iterate(path, ("id", "messages")):
            rows[split] += 1
            found += _hits(index, row, split)
    overlap.write(out, found, n)
    counted = {"n": n, "rows": {split: rows[split] for split in SPLITS}, **summarise(found, index)}
    write_json(summary, counted)
    inputs, closure = {"corpus": [train, val], "benchmarks": benchmarks}, code.sources("hybrid_lora.data.overlap")
    for artifact in (out, summary):
        manifest.write_beside(artifact, "data.overlap", settings, inputs, closure)
    for name, part in counted["benchmarks"].items():
        where = f"{part['train']} training and {part['val']} validation rows"
        print(f"overlap with {name}: {part['found']} of {part['problems']} problems found, in {where}", file=sys.stderr)


def _hits(index, row, split):
    text = prompt(row["messages"])
    for number, shared in sorted(index.find(text).items()):
        benchmark, problem = index.problems[number]
        found = {"id": row["id"], "split": split, "benchmark": benchmark, "problem": problem}
        yield {**found, "shared": shared, "share": shared / index.sizes[number]}


def prompt(messages):
    """The text of all messages but the last, which is the solution."""
    return "\n\n".join(message["content"] for message in messages[:-1])


def summarise(found, index):
    """{overlapping, benchmarks} of the records."""
    total = Counter(benchmark for benchmark, _ in index.problems)
    problems, rows = defaultdict(set), defaultdict(set)
    for hit in found:
        problems[hit["benchmark"]].add(hit["problem"])
        rows[hit["benchmark"], hit["split"]].add(hit["id"])
    return {
        "overlapping": {split: len({hit["id"] for hit in found if hit["split"] == split}) for split in SPLITS},
        "benchmarks": {
            name: {"problems": count, "found": len(problems[name]), **{split: len(rows[name, split]) for split in SPLITS}}
            for name, count in total.items()
        },
    }
