"""What a grader says about one completion."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """correct: None where the grader itself failed, never for a model's fault.

    extracted: the answer or program that was graded, None if none was found; error: kind of error, None if none. A kind
    may carry a detail after a colon: `wrong-answer: test 3 of 103`, `timeout: test 3 of 103`, `exception: KeyError, test 3 of
    103`. The grader's own failures have the kind `grader`.
    """

    correct: bool | None
    extracted: str | None = None
    error: str | None = None


def failed(reason, extracted=None):
    """The verdict for a failure of the grader itself; `reason` is one line without any text of the problem."""
    return Verdict(None, extracted, f"grader: {reason}")


def guarded(extracted, judge, *arguments):
    """The verdict of `judge(*arguments)`, the grader's own failure if it raises: one row never costs the others theirs."""
    try:
        return judge(*arguments)
    except Exception as error:
        return failed(f"{type(error).__name__} in {judge.__name__}", extracted)


def summary(verdicts):
    """`71 of 100 correct, 1 not judged; no-answer 3, timeout 1`: kinds of error without their details."""
    right = sum(verdict.correct is True for verdict in verdicts)
    unjudged = sum(verdict.correct is None for verdict in verdicts)
    kinds = Counter(verdict.error.split(":")[0] for verdict in verdicts if verdict.error)
    shown = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return (
        f"{right} of {len(verdicts)} correct" + (f", {unjudged} not judged" if unjudged else "") + (f"; {shown}" if shown else "")
    )
