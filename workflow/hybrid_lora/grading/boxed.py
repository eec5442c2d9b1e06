r"""Find the last \boxed{...} of a text; shared by the math and choice graders. Linear in the text's length."""

import re

_START = re.compile(r"\\f?boxed\s*(\{|(?=[^\s{]))")
_UNBRACED = re.compile(r"[^\s$]*")
_SEPARATOR = re.compile(r",|\b(?:and|or)\b|^\s*$")
_CORRECTION = re.compile(
    r"\b(?:no|not|nope|but|wait|so|actually|instead|rather|then|thus|hence|therefore|is|was|sorry)\b|:", re.IGNORECASE
)
LOOK_BACK = 200_000  # an answer stands at the end: boxes farther from it than this many characters are not looked for
GAP = 70  # characters, math-verify's own limit between the boxes of one answer


def last(text):
    r"""Content of the last complete \boxed, None if there is none; one that is never closed (cut off) is passed over."""
    found = _boxes(text[-LOOK_BACK:])
    return found[-1][2].strip() if found else None


def answer(text):
    r"""What the last boxes of a text say: the content of the last one, or several that are one answer as `group` has them."""
    together = group(text)
    boxes = _boxes(together or "")
    return together if len(boxes) > 1 else boxes[0][2].strip() if boxes else None


def group(text):
    r"""The last \boxed with those that belong to the same answer (`\boxed{1} and \boxed{2}`), as it stands in the text.

    Boxes belong together if different and closer than GAP, with a comma, `and`, `or` or nothing between them, and no
    word that takes the first one back (`\boxed{3}, no, \boxed{4}`). None if there is no box.
    """
    text = text[-LOOK_BACK:]
    boxes = _boxes(text)
    if not boxes:
        return None
    start, end, content = boxes.pop()
    if text[end - 1] != "}":
        return f"\\boxed{{{content}}}"
    while boxes:
        before, close, other = boxes.pop()
        between = text[close:start]
        joined = len(between) < GAP and _SEPARATOR.search(between) and not _CORRECTION.search(between)
        if other == content or not joined or text[close - 1] != "}":
            break
        start, content = before, other
    return text[start:end]


def _boxes(text):
    """(start, end, content) of every complete box, outermost only, from left to right."""
    boxes, end, closing = [], 0, None
    for match in _START.finditer(text):
        if match.start() < end:
            continue  # inside the box before
        if match.group(1):
            closing = _matching(text) if closing is None else closing
            close = closing.get(match.end() - 1)
            if close is None:
                continue
            end, content = close + 1, text[match.end() : close]
        else:  # \boxed 5
            content = _UNBRACED.match(text, match.end()).group().rstrip(".")
            end = match.end() + len(content)
        if content.strip():
            boxes.append((match.start(), end, content))
    return boxes


def _matching(text):
    """{position of an opening brace: position of the brace that closes it}; escaped braces do not count."""
    stack, pairs = [], {}
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            pairs[stack.pop()] = match.start()
    return pairs
