"""What a grader says about one completion."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """correct: None where the grader itself failed, never for a model's fault.

    extracted: the answer or program that was graded, None if none was found; error: kind of error, None if none. A kind
    may carry a detail after a colon: `wrong-answer: test 3 of 103`. The grader's own failures have the kind `grader`.
    """

    correct: bool | None
    extracted: str | None = None
    error: str | None = None


def failed(reason, extracted=None):
    """The verdict for a failure of the grader itself; `reason` is one line without any text of the problem."""
    return Verdict(None, extracted, f"grader: {reason}")
