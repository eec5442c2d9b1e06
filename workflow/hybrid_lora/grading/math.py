r"""Math answers: the last \boxed{} first, then a stated final answer, compared by math-verify.

Extraction is ours (cheap, linear); parsing and comparing are math-verify's, after `notation` has rewritten what it does not
read. It is imported at its first use, as that takes a second or more. Its timeouts are alarms, which only the main thread
can set: in another thread there is no timeout, and `grading.pool` runs it in processes that can be killed.

Departure from the library's defaults: an interval may also be given by its inequality (allow_set_relation_comp).
"""

import math
import re
import threading
import time
from functools import lru_cache

from hybrid_lora.grading import boxed, notation, stated
from hybrid_lora.grading.verdict import Verdict, failed

LONGEST_ANSWER = 2_000  # characters; nothing longer is an answer, and math-verify's patterns are slow on it
OPTIONS = {"strict": True, "allow_set_relation_comp": True}
_INTEGER = re.compile(r"-?[0-9]{1,12}")
_BOLD = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol|bm)\{\s*(\(?)(-?[0-9]{1,12})((?(1)\)))\s*\}")  # \textbf{(051)}
_DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\f?boxed")
_LATEX = re.compile(r"\\[a-zA-Z!,;{}$%]|[\^_{}]|[a-zA-Z)]\s*[=<>+*/-]|^[(\[].*[)\]]$|^[a-zA-Z]$|\d[a-zA-Z]\b|\d,(?:\s|-)")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's annotations: 9 * 2 = $<<9*2=18>>18
_DECIMAL_COMMA = re.compile(r"-?\d+,\d\d")  # 1,22 in a gold: a number as well as two


def grade(completion, gold, timeout_s, options=None, match_types=None):
    """The verdict on `completion`; never raises.

    gold: an answer, or a worked solution that ends in one; timeout_s: for each of parsing and comparing; options: of
    math_verify.verify (`float_rounding`, ...), over OPTIONS; match_types: what math-verify looks for (latex, expr), its
    own choice if None. An answer that takes longer is wrong with error `timeout`; a gold that cannot be read is the
    grader's failure.
    """
    answer, verdict = prepare(completion, gold, match_types)
    return verdict or compare(answer, gold, timeout_s, options, match_types)


def prepare(completion, gold, match_types=None):
    """(extracted answer, None), or (None, Verdict) where no library is needed: no answer, no gold, equal text, two integers.

    Two integers of up to 12 digits are compared as such: math-verify compares exactly those values, so it cannot differ.
    What is written as the gold is written is right; math-verify agrees wherever it can read it, in 10 ms more.
    """
    if not isinstance(gold, str) or not gold.strip():
        return None, failed("no gold answer")
    answer = extract(completion, integers=not match_types)
    if answer is None:
        return None, Verdict(False, None, "no-answer")
    right = None if match_types else _gold(gold)
    if right is None:
        return answer, None
    given, wanted = _undelimited(answer), _undelimited(right)
    if given == wanted:
        return None, Verdict(True, shown(answer))
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(wanted):
        return None, Verdict(int(given) == int(wanted), shown(answer))
    same = notation.same(given, wanted)
    return (answer, None) if same is None else (None, Verdict(same, shown(answer)))


def extract(text, integers=True):
    r"""The answer that `text` ends in: last \boxed{}, else the last stated one (`answer is`, `Answer:`, `####`, `A:`).

    A box alone with an integer is returned as that integer, where `integers`. The one statement that comes before a box is
    Minerva's `final answer is X. I hope it is correct` after it. What follows a closing </think> is the text, if anything
    does; what follows the end of a turn is not. Without any, a text that is short enough to be an answer itself is returned
    whole, and of a long one the last line: math-verify then looks for a formula or number in it. None if there is no text.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    text = stated.turn(text)
    answer = stated.minerva(text) or (_boxed(text) if integers else boxed.group(text)) or stated.last(text)
    if answer is None:
        answer = text.strip() if len(text) <= LONGEST_ANSWER else text[-LONGEST_ANSWER:].strip().rpartition("\n")[2]
        answer = _CALCULATOR.sub("", answer)
    answer = answer.strip()
    return answer if 0 < len(answer) <= LONGEST_ANSWER else None


def _boxed(text):
    answer = boxed.group(text)
    if answer is None:
        return None
    single = boxed.last(answer)
    if single is None:  # of `\boxed 3\}`, say: a box of its own only within the text that it was cut from
        return answer
    bold = _BOLD.fullmatch(single)
    if bold and shown(answer) == single:
        return bold.group(2)
    return single if _INTEGER.fullmatch(single) and shown(answer) == single else answer


def shown(answer):
    r"""An extracted answer as a verdict records it: without its \boxed, if it is one box."""
    content = boxed.last(answer)
    whole = content is not None and answer.startswith("\\boxed{") and answer[len("\\boxed{") : -1].strip() == content
    return content if whole else answer


def _undelimited(answer):
    return shown(answer).strip("$ \n").removesuffix(".")


def _gold(text):
    """A gold in math delimiters is an answer and goes to math-verify as it stands."""
    text = text.strip()
    return text if text.startswith(("$", "\\(", "\\[")) and len(text) <= LONGEST_ANSWER else extract(text)


def compare(answer, gold, timeout_s, options=None, match_types=None):
    """The verdict on an extracted answer, by math-verify; arguments as `grade`'s."""
    import math_verify
    from math_verify.errors import TimeoutException

    seconds = math.ceil(timeout_s) if threading.current_thread() is threading.main_thread() else None
    wanted = tuple(match_types) if match_types else None
    options = OPTIONS | (options or {})  # out here, as options of another type are no fault of the answer
    try:
        right = _parse_gold(gold, seconds, wanted)
    except (Exception, TimeoutException) as error:
        return failed(f"gold answer not readable ({type(error).__name__})", shown(answer))
    if not right:
        return failed("gold answer not readable", shown(answer))
    try:
        found = _parse(answer, seconds, wanted)
        if not found:
            return Verdict(False, shown(answer), "no-answer")
        began = time.monotonic()
        correct = math_verify.verify(right, found, timeout_seconds=seconds, raise_on_error=False, **options)
    except TimeoutException:
        return Verdict(False, shown(answer), "timeout")
    except Exception as error:  # what the model wrote broke the parser
        return Verdict(False, shown(answer), f"exception: {type(error).__name__}")
    late = not correct and seconds is not None and time.monotonic() - began >= seconds  # verify says False, no more
    return Verdict(bool(correct), shown(answer), "timeout" if late else None)


@lru_cache(maxsize=4096)
def _parse_gold(gold, seconds, match_types=None):
    right = _gold(gold) or ""
    if match_types:
        return _parse(right, seconds, match_types)
    if _DECIMAL_COMMA.fullmatch(right):
        return _parse(f"\\boxed{{{right}}}", seconds) + _parse(right, seconds)
    if _DELIMITED.search(right):
        return _parse(right, seconds)
    if stated.prose(right):  # with a formula in it, or words alone, which math-verify reads as a text in a box
        return _parse(right, seconds) or _parse(f"\\boxed{{\\text{{{right}}}}}", seconds)
    return _parse(f"\\boxed{{{right}}}", seconds)


def _parse(answer, seconds, match_types=None):
    from math_verify import parse

    if match_types:
        return parse(answer, _targets(match_types), parsing_timeout=seconds, raise_on_error=True)
    return parse(_readable(answer), parsing_timeout=seconds, raise_on_error=True)


def _targets(match_types):
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    known = {"latex": LatexExtractionConfig(boxed_match_priority=0), "expr": ExprExtractionConfig()}
    return [known[name] for name in match_types]


def _readable(answer):
    """The answer in math-verify's notation, bare LaTeX in a box: the library reads a formula only in delimiters."""
    content = shown(answer)
    if content != answer:
        return f"\\boxed{{{notation.normal(content)}}}"
    if _DELIMITED.search(answer):
        return notation.signs(answer)
    if stated.prose(answer):
        concluded = stated.conclusion(answer)
        if concluded is None or not _LATEX.search(concluded) or stated.prose(concluded):
            return answer.replace("\\$", "$")
        answer = concluded
    answer = notation.normal(answer)
    return f"\\boxed{{{answer}}}" if _LATEX.search(answer) else answer
