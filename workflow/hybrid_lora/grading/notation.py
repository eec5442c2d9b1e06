r"""Ways of writing one answer: what math-verify does not read, rewritten; and what needs no algebra, compared as it stands.

Rewritten, always to the same value: Unicode signs, thousands separators of LaTeX (`1\,000`, `1{,}000`, `1,\!000`), mixed
numbers (`1 1/2`), recurring decimals, `1.5e3`, currency signs, the full stop after an answer, numbers set as text. Compared
here: texts (`\text{Tuesday}` and Tuesday), letters of options, numbers with their base, percentages.
"""

import re
from decimal import Decimal

_SIGNS = {power: f"^{digit}" for digit, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {
    "−": "-", "–": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "±": r"\pm ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "£": "", "€": "", "¥": "", "，": ",", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
}  # fmt: skip
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[a-zA-Z]))")
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!\s*|\{,\}\s*|\\,|\\ |\\;)(?=\d{3}(?!\d))")
_MIXED = re.compile(r"(-?)(\d{1,9})\s+(\d{1,9})/([1-9]\d{0,8})")
_RECURRING = re.compile(r"(-?)(\d{0,9})\.(\d{0,9})\\overline\{(\d{1,9})\}")
_SCIENTIFIC = re.compile(r"(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})")
_OPERATOR = re.compile(r" *([+*/=<>-]) *")
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|textnormal)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|~|\\quad|\s+")
_WORDS = re.compile(r"[a-z][a-z'’,.:&/()\- 0-9]*")
_LETTERS = re.compile(r"\(?([A-Z])\)?(?:\s*(?:,|and|,\s*and|&)\s*\(?([A-Z])\)?)*")
_ARTICLE = re.compile(r"(?:an?|the)\s+")
_OPTION = re.compile(r"\(([A-Z])\)")
_CHOSEN = re.compile(r"\(?([A-Z])(?:\)|[.:](?:\s|$)|$).*", re.DOTALL)
_BASE = re.compile(r"([0-9A-F]+)_\{?(\d{1,2}|two|three|four|five|six|seven|eight|nine|ten|sixteen)\}?")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "sixteen": 16}
_PERCENT = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:\\?%|\\text\{\s*percent\s*\}|percent)")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?")


def normal(text):
    """An answer as math-verify reads it; the same value, the text itself where there is nothing to rewrite."""
    text = signs(text).strip()
    if text.endswith((".", ";", ",")) and not text.endswith(".."):
        text = text[:-1].rstrip()
    text = _THOUSANDS.sub("", text)
    text = text if "\\text" in text else _OPERATOR.sub(r"\1", text)  # the library reads `a + b + c` as a sum with a unit
    whole = _WRAPPED.fullmatch(text)
    if whole and re.match(r"\s*[-+$]?\d", whole[1]) and ":" not in whole[1]:
        text = whole[1].strip()
    for pattern, rewrite in ((_MIXED, _mixed), (_RECURRING, _recurring), (_SCIENTIFIC, _scientific)):
        if found := pattern.fullmatch(text):
            return rewrite(*found.groups())
    return text


def signs(text):
    """Unicode's signs as LaTeX."""
    if text.isascii():
        return text
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found[1] or found[2] or found[3]}}}", text)
    return "".join(_SIGNS.get(character, character) for character in text)


def _mixed(sign, whole, above, below):
    return rf"{sign}\frac{{{int(whole) * int(below) + int(above)}}}{{{int(below)}}}"


def _recurring(sign, whole, fixed, recurring):
    below = (10 ** len(recurring) - 1) * 10 ** len(fixed)
    above = int((whole + fixed + recurring) or "0") - int((whole + fixed) or "0")
    return rf"{sign}\frac{{{above}}}{{{below}}}"


def _scientific(number, power):
    return rf"{number} \times 10^{{{int(power)}}}"


def same(answer, right):
    """True or False where an answer needs no algebra to be compared with the right one, None where it may."""
    answer, right = (signs(text).strip("$ \n") for text in (answer, right))
    for compare in (_same_base, _same_option, _same_percentage, _same_words):
        verdict = compare(answer, right)
        if verdict is not None:
            return verdict
    return None


def _same_base(answer, right):
    """Numbers that both name their base: 101_2 and 101_{two}; math-verify looks at the digits alone."""
    pair = [_BASE.fullmatch(re.sub(r"\\(?:text|mathrm)\{\s*(\w+)\s*\}", r"\1", text)) for text in (answer, right)]
    if not all(pair):
        return None
    first, second = ((found[1].lstrip("0"), _BASES.get(found[2]) or int(found[2])) for found in pair)
    return first == second


def _same_option(answer, right):
    r"""A letter in parentheses is an option's; (B) is also named by `(B) 12`, `B. 12`, `\textbf{(B)}\ 12`."""
    option = _OPTION.fullmatch(_bare(right))
    chosen = _CHOSEN.match(_bare(answer)) if option else None
    return (chosen[1] == option[1]) if chosen else None


def _same_percentage(answer, right):
    """12.5 for 12.5 %: math-verify compares whole percentages only."""
    for one, other in ((answer, right), (right, answer)):
        percent = _PERCENT.fullmatch(one)
        if percent and _DECIMAL.fullmatch(other):
            return True if Decimal(percent[1]) in (Decimal(other), 100 * Decimal(other)) else None
    return None


def _same_words(answer, right):
    if _LETTERS.fullmatch(_bare(right)) and re.search(r"[A-Z].*[A-Z]", right) and _LETTERS.fullmatch(_bare(answer)):
        return True if re.findall(r"[A-Z]", _bare(answer)) == re.findall(r"[A-Z]", _bare(right)) else None
    wanted, given = words(right), words(answer)
    if wanted is None or given is None:
        return None
    return True if given == wanted or given.rpartition(" is ")[2] == wanted else None


def words(text):
    """A text that is an answer in words, in the form in which two are compared; None if it is none."""
    bare = _bare(text).strip(" .*_\"'").lower()
    if not _WORDS.fullmatch(bare) or not re.search(r"[a-z]{3}", bare):
        return None
    return re.sub(r"\s*([,:])\s*", r"\1", _ARTICLE.sub("", bare, count=1) if _ARTICLE.match(bare) else bare)


def _bare(text):
    """Without the commands that set text, and with single blanks."""
    return _SPACES.sub(" ", _WRAPPED.sub(r"\1", text)).strip()
