"""Rewards from the graders that evaluation uses: accuracy, format, length control (Section B.1), each with a weight.

A verdict that could not be reached gives None in every part, which leaves the completion out of its group's statistics: it
is no wrong answer, and no right one in form either.
"""

import sys
from collections import Counter

from hybrid_lora.common import ranks
from hybrid_lora.common.files import sha256_json
from hybrid_lora.grading import boxed, choice, code, dispatch

LETTERS = "ABCDEFGHIJ"


def kind(row):
    """How a corpus row is verified: code | choice | math, or None where there is nothing to verify against.

    Which of them a source may have is said in contracts (JUDGED): a job's settings and code are chosen by it.
    """
    if row["source"] == "code" and code.missing(row["tests"]) is None:
        return "code"
    if not (row["gold"] or "").strip():
        return None
    return "choice" if row["source"] == "science" and row["gold"] in tuple(LETTERS) else "math"


def verifiable(rows, sources):
    """The rows of the wanted sources that a verifier can judge; how many were left out, and why, goes to the log."""
    counts, kept = Counter(), []
    for row in rows:
        if row["source"] not in sources:
            counts[f"of source {row['source']}, which `sources` lacks"] += 1
        elif kind(row):
            kept.append(row)
        else:
            counts["of code without tests" if row["source"] == "code" else f"of {row['source']} without a gold answer"] += 1
    if counts and ranks.first():
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"rows left out: {left_out}", file=sys.stderr, flush=True)
    return kept


def functions(weights, grading, max_tokens, workers):
    """(reward functions for TRL, their weights); functions of weight zero are left out.

    weights: {accuracy, format, length}; grading: config `grading`; max_tokens: the completion limit.
    """

    def accuracy(completions, row_kind, gold, tests, **kwargs):
        """1 for a right answer, 0 for a wrong one, None where the grader failed."""
        verdicts = graded(completions, row_kind, gold, tests)
        return _judged([float(v.correct or 0) for v in verdicts], verdicts)

    def format(completions, row_kind, gold, tests, **kwargs):
        """1 where the answer stands in the expected form (boxed, option letter, code block), else 0."""
        verdicts = graded(completions, row_kind, gold, tests)
        formed = [float(bool(_formed(k, text))) for k, text in zip(row_kind, _texts(completions))]
        return _judged(formed, verdicts)

    def length(completions, completion_ids, row_kind, gold, tests, **kwargs):
        """1 for an empty answer falling linearly to 0 at the completion limit."""
        short = [1 - len(ids) / max_tokens for ids in completion_ids]
        if not (weights["accuracy"] or weights["format"]):
            return short  # nothing is graded
        return _judged(short, graded(completions, row_kind, gold, tests))

    last = {}  # all parts ask for the same verdicts, one after the other

    def graded(completions, kinds, golds, tests):
        key = sha256_json([_texts(completions), kinds, golds, tests])
        if last.get("key") != key:
            last.update(key=key, verdicts=_verdicts(_texts(completions), kinds, golds, tests, grading, workers))
        return last["verdicts"]

    chosen = [f for f in (accuracy, format, length) if weights[f.__name__]]
    return chosen, [weights[f.__name__] for f in chosen]


def _formed(kind, text):
    """What stands in the form that is asked for; graders accept more."""
    if kind == "math":
        return boxed.last(text)
    return choice.stated(text, LETTERS) if kind == "choice" else any(map(str.strip, code.fenced(text)))


def _judged(values, verdicts):
    return [None if verdict.correct is None else value for value, verdict in zip(values, verdicts)]


def _texts(completions):
    return [completion[-1]["content"] if isinstance(completion, list) else completion for completion in completions]


def _verdicts(texts, kinds, golds, tests, grading, workers):
    rows = [
        # For math `options` would be math-verify's.
        {"completion": text, "gold": gold, "tests": test, **({"options": list(LETTERS)} if k == "choice" else {})}
        for text, k, gold, test in zip(texts, kinds, golds, tests)
    ]
    verdicts = [None] * len(rows)
    for one in sorted(set(kinds)):
        where = [i for i, k in enumerate(kinds) if k == one]
        for i, verdict in zip(where, dispatch.grade_batch(one, [rows[i] for i in where], grading, workers)):
            verdicts[i] = verdict
    return verdicts
