r"""Math answers: the last \boxed{} first, then a stated final answer, compared by math-verify.

Extraction is ours (cheap, linear); parsing and comparing are math-verify's. It is imported at its first use, as that
takes a second or more. Its timeouts are alarms, which only the main thread can set: in another thread there is no
timeout, and `grading.pool` runs it in processes that can be killed.
"""

import math
import re
import threading
import time
from functools import lru_cache

from hybrid_lora.grading import boxed
from hybrid_lora.grading.verdict import Verdict, failed

LONGEST_ANSWER = 2_000  # characters; nothing longer is an answer, and math-verify's patterns are slow on it
TAIL = 4_000  # characters at the end that are searched for a stated answer
_STATED = [
    re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE),
    re.compile(r"^[ \t]*A:[ \t]*(\S.*)$", re.MULTILINE),
    re.compile(r"\b(?:final )?answer(?:[ \t]+is[ \t]*:?|[ \t]*:)[*_ \t]*\s*(\S.*)", re.IGNORECASE),
]
_INTEGER = re.compile(r"-?[0-9]{1,12}")
_BOLD = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol|bm)\{\s*(\(?)(-?[0-9]{1,12})((?(1)\)))\s*\}")  # \textbf{(051)}
_DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\f?boxed")
_LATEX = re.compile(r"\\[a-zA-Z!,;{}$%]|[\^_{}]|[a-zA-Z)]\s*[=<>+*/-]|^[(\[].*[)\]]$|^[a-zA-Z]$|\d[a-zA-Z]\b|\d,(?:\s|-)")
_MINERVA = re.compile(r"final answer is:?\s*(\S.{0,500}?)\.?\s*I hope it is correct", re.IGNORECASE | re.DOTALL)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d\d")  # 1,22 in a gold: a number as well as two
_PREFIX = re.compile(r"(?:the )?(?:final )?answer(?: is)?\s*:?[*_\s]*", re.IGNORECASE)


def grade(completion, gold, timeout_s, options=None):
    """The verdict on `completion`; never raises.

    gold: an answer, or a worked solution that ends in one; timeout_s: for each of parsing and comparing; options: of
    math_verify.verify (`float_rounding`, ...), its defaults if None. An answer that takes longer is wrong with error
    `timeout`; a gold that cannot be read is the grader's failure.
    """
    answer, verdict = prepare(completion, gold)
    return verdict or compare(answer, gold, timeout_s, options)


def prepare(completion, gold):
    """(extracted answer, None), or (None, Verdict) where no library is needed: no answer, no gold, equal text, two integers.

    Two integers of up to 12 digits are compared as such: math-verify compares exactly those values, so it cannot differ.
    What is written as the gold is written is right; math-verify agrees wherever it can read it, in 10 ms more.
    """
    if not isinstance(gold, str) or not gold.strip():
        return None, failed("no gold answer")
    answer = extract(completion)
    if answer is None:
        return None, Verdict(False, None, "no-answer")
    right = _gold(gold)
    if right is not None and _undelimited(answer) == _undelimited(right):
        return None, Verdict(True, shown(answer))
    if right is not None and _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(right):
        return None, Verdict(int(answer) == int(right), answer)
    return answer, None


def extract(text):
    r"""The answer that `text` ends in: last \boxed{}, else the last stated one (`answer is`, `Answer:`, `####`, `A:`).

    A box alone with an integer is returned as that integer. The one statement that comes before a box is Minerva's
    `final answer is X. I hope it is correct` after it. Without any, a text that is short enough to be an answer itself
    is returned whole, and of a long one the last line: math-verify then looks for a formula or number in it. None if
    there is no text.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    tail = text[-TAIL:]
    answer = _minerva(tail) or _boxed(text) or _stated(tail)
    if answer is None:
        answer = text.strip() if len(text) <= LONGEST_ANSWER else text[-LONGEST_ANSWER:].strip().rpartition("\n")[2]
    answer = answer.strip()
    return answer if 0 < len(answer) <= LONGEST_ANSWER else None


def _minerva(tail):
    found = _MINERVA.search(tail, max(0, tail.rfind("\\boxed")))
    return found.group(1) if found else None


def _boxed(text):
    answer = boxed.group(text)
    if answer is None:
        return None
    single = boxed.last(answer)
    bold = _BOLD.fullmatch(single)
    if bold and shown(answer) == single:
        return bold.group(2)
    return single if _INTEGER.fullmatch(single) and shown(answer) == single else answer


def shown(answer):
    r"""An extracted answer as a verdict records it: without its \boxed, if it is one box."""
    content = boxed.last(answer)
    return content if content is not None and answer == f"\\boxed{{{content}}}" else answer


def _undelimited(answer):
    return shown(answer).strip("$ \n")


def _stated(text):
    found = [match for pattern in _STATED for match in pattern.finditer(text)]
    if not found:
        return None
    answer = max(found, key=lambda match: match.start(1)).group(1)
    while (again := _PREFIX.match(answer)) is not None and again.end() < len(answer):
        answer = answer[again.end() :]  # Final Answer: The final answer is ...
    answer = re.split(r"(?<=\S)\.\s", answer.strip("* \t"))[0]  # to the end of the sentence
    return answer.rstrip(". ") or None


def _gold(text):
    """A gold in math delimiters is an answer and goes to math-verify as it stands."""
    text = text.strip()
    return text if text.startswith(("$", "\\(", "\\[")) and len(text) <= LONGEST_ANSWER else extract(text)


def compare(answer, gold, timeout_s, options=None):
    """The verdict on an extracted answer, by math-verify; arguments as `grade`'s."""
    import math_verify
    from math_verify.errors import TimeoutException

    seconds = math.ceil(timeout_s) if threading.current_thread() is threading.main_thread() else None
    try:
        right = _parse_gold(gold, seconds)
    except (Exception, TimeoutException) as error:
        return failed(f"gold answer not readable ({type(error).__name__})", shown(answer))
    if not right:
        return failed("gold answer not readable", shown(answer))
    try:
        found = _parse(answer, seconds)
        if not found:
            return Verdict(False, shown(answer), "no-answer")
        began = time.monotonic()
        options = {"strict": True} | (options or {})
        correct = math_verify.verify(right, found, timeout_seconds=seconds, raise_on_error=False, **options)
    except TimeoutException:
        return Verdict(False, shown(answer), "timeout")
    except Exception as error:  # what the model wrote broke the parser
        return Verdict(False, shown(answer), f"exception: {type(error).__name__}")
    late = not correct and seconds is not None and time.monotonic() - began >= seconds  # verify says False, no more
    return Verdict(bool(correct), shown(answer), "timeout" if late else None)


@lru_cache(maxsize=4096)
def _parse_gold(gold, seconds):
    right = _gold(gold) or ""
    if _DECIMAL_COMMA.fullmatch(right):
        return _parse(f"\\boxed{{{right}}}", seconds) + _parse(right, seconds)
    return _parse(right if _DELIMITED.search(right) else f"\\boxed{{{right}}}", seconds)


def _parse(answer, seconds):
    from math_verify import parse

    if not _DELIMITED.search(answer) and _LATEX.search(answer):
        answer = f"\\boxed{{{answer}}}"  # bare LaTeX; math-verify reads a formula only in delimiters
    return parse(answer, parsing_timeout=seconds, raise_on_error=True)
