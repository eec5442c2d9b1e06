r"""Multiple choice, by MMLU-Pro's conventions: "answer is (C)", "Answer: C", \boxed{C}, else the last lone letter.

Departures from MMLU-Pro's script: the last stated answer counts, not the first (models change their minds); a letter in
\boxed counts as stated; only what follows a closing </think> counts, if it holds an answer; a stated letter that is no
option is wrong, and a lone letter must be an option. Before lone letters come what its script does not know: "the correct
option is C", "(C) is the right choice", "answer is (c)", and a first line that is a letter. Where there is no letter at
all, nothing is guessed.
"""

import re

from hybrid_lora.grading import boxed
from hybrid_lora.grading.verdict import Verdict, failed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAIL = 200_000  # characters at the end that are looked at
_OPEN, _CLOSE = r"[*_\s]*[(\[$*\"'`]*(?:\\(?:text|textbf|mathrm|mathbf|boxed)\{)?\(?", r"(?![A-Za-z0-9'’])"
_STATED = re.compile(rf"(?i:answer)(?:(?i: is(?: option| choice)?):?|[*_]*:){_OPEN}([A-Z]){_CLOSE}")
_BE = r"(?: is| would be| should be| must be)(?: therefore| thus)?(?: the)?(?: option| choice| letter)?:?"
_ALSO_STATED = [
    re.compile(
        rf"(?i:answer|(?:correct|best|right|final) (?:option|choice|letter|statement))(?i:{_BE}|[*_]*:){_OPEN}([A-Z]){_CLOSE}"
    ),
    re.compile(r"\(?\b([A-Z])\b\)?[*_]*(?i: is (?:therefore |thus )?(?:the )?(?:correct|right|best) (?:answer|option|choice)\b)"),
    re.compile(r"(?i:\b(?:option|choice)) [*_]*\(?([A-Z])\b\)?[*_]*(?i: is (?:therefore |thus )?(?:correct|right|best)\b)"),
    re.compile(r"(?i:answer(?: is)?:?)[*_ \t]+(?:\(([a-z])\)|([a-z])(?=[.)]?[*_ \t]*$))", re.MULTILINE),
]
_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s*\(?([A-Z])\)?\s*(?:[.:)}].*)?", re.DOTALL)
_FIRST_LINE = re.compile(r"\s*[*_#(\[]*([A-Z])[)\].:*_ \t]*(?:\n|$)")
_LONE = re.compile(r"\b[A-Z]\b")


def grade(completion, gold, options):
    """The verdict on `completion`; gold: the right letter; options: list of the options' texts (their number counts)."""
    letters = LETTERS[: len(options)] if options is not None else ""
    gold = gold.strip() if isinstance(gold, str) else gold
    if not isinstance(gold, str) or len(gold) != 1 or gold not in letters:
        return failed(f"gold is not one of the {len(letters)} options' letters")
    letter = extract(completion, letters)
    if letter is None:
        return Verdict(False, None, "no-answer")
    return Verdict(letter == gold, letter, None if letter in letters else "no-option")


def extract(completion, letters):
    """The chosen letter, None if there is none; a stated one may lie outside `letters`."""
    return _in(completion, letters, _find)


def stated(completion, letters):
    """The letter that is said to be the answer, in a box or stands first; None where `extract` takes one out of a sentence."""
    return _in(completion, letters, _said)


def _in(completion, letters, find):
    if not isinstance(completion, str):
        return None
    text = completion[-TAIL:]
    thought, closed, answer = text.rpartition("</think>")
    return find(answer, letters) or (find(thought, letters) if closed else None)


def _find(text, letters):
    if said := _said(text, letters):
        return said
    lone = [letter for letter in _LONE.findall(text) if letter in letters]
    return lone[-1] if lone else None


def _said(text, letters):
    stated = [(match.start(), match.group(1)) for match in _STATED.finditer(text)]
    box = boxed.last(text)
    inside = _LETTER.fullmatch(box) if box else None
    if inside:
        stated.append((text.rfind("boxed"), inside.group(1)))
    stated = stated or [
        (match.start(), letter.upper())
        for pattern in _ALSO_STATED
        for match in pattern.finditer(text)
        if (letter := next(filter(None, match.groups()))).upper() in letters
    ]
    if stated:
        return max(stated)[1]
    first = _FIRST_LINE.match(text)
    return first.group(1) if first and first.group(1) in letters else None
