r"""Where a text states its answer without a \boxed: after "the answer is", "Answer:", "####", "A:" or under such a heading.

Linear in the text's length.
"""

import re

TAIL = 4_000  # characters at the end that are searched
_MARKS = [
    re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE),
    re.compile(r"^[#*_ \t]*(?:the )?(?:final )?answer[*_: \t]*$\s*(\S.*)", re.MULTILINE | re.IGNORECASE),  # a heading
    re.compile(r"^[ \t]*A:[ \t]*(\S.*)$", re.MULTILINE),
    re.compile(r"\b(?:final )?answer(?:[ \t]+is[ \t]*:?|[ \t]*:)[*_ \t]*\s*(\S.*)", re.IGNORECASE),
]
_MINERVA = re.compile(r"final answer is:?\s*(\S.{0,500}?)\.?\s*I hope it is correct", re.IGNORECASE | re.DOTALL)
_PREFIX = re.compile(r"(?:the )?(?:final )?answer(?: is)?\s*:?[*_\s]*", re.IGNORECASE)
_BLOCKS = [  # formulas that may take several lines
    re.compile(r"\\\[.*?\\\]", re.DOTALL),
    re.compile(r"\$\$.*?\$\$", re.DOTALL),
    re.compile(r"\\\(.*?\\\)", re.DOTALL),
    re.compile(r"\$\s*\n[^$]*\$"),
    re.compile(r"\\begin\{(\w+)\}.*?\\end\{\1\}", re.DOTALL),
]
_SENTENCE = re.compile(r"(?<=\S)\.\s")
_CLAUSE = re.compile(r"(?:\b(?:is|are|equals|be)|=|:)\s+(?=\S)", re.IGNORECASE)
_MARKUP = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\text\w*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(r"\b[A-Za-z]{3,}\b")
_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id)\|>|</s>")  # tokens at which a turn ends, left in a text


def turn(text):
    """The text of the first turn that says something after its reasoning (`</think>`), without the tokens that end it."""
    text = next((part for part in _TURN.split(text) if part.strip()), "")
    thought, closed, answer = text.rpartition("</think>")
    return answer if answer.strip() else thought if closed else text


def minerva(text):
    r"""The X of `final answer is X. I hope it is correct`, None if it does not say so after its last \boxed."""
    tail = text[-TAIL:]
    found = _MINERVA.search(tail, max(0, tail.rfind("\\boxed")))
    return found.group(1) if found else None


def last(text):
    """The answer stated last, None if none is."""
    text = text[-TAIL:]
    found = [match for pattern in _MARKS for match in pattern.finditer(text)]
    if not found:
        return None
    start = max(match.start(1) for match in found)
    while (again := _PREFIX.match(text, start)) is not None and again.end() < len(text.rstrip("* \t\n.")):
        start = again.end()  # Final Answer: The final answer is ...
    for block in _BLOCKS:
        if formula := block.match(text, start):
            return formula.group()
    line = text[start:].partition("\n")[0]
    return _sentence(line.strip("* \t")).rstrip(". ") or None


def _sentence(line):
    r"""The line up to the end of its sentence, which a full stop within braces is not (\text{sq. cm})."""
    for stop in _SENTENCE.finditer(line):
        if line.count("{", 0, stop.start()) <= line.count("}", 0, stop.start()):
            return line[: stop.start()]
    return line


def prose(text):
    """Whether a text is a sentence with words rather than a formula."""
    return len(_WORD.findall(_MARKUP.sub(" ", text))) >= 2


def conclusion(text):
    """What the last line of a sentence ends in: the part after its last `is`, `=` or colon, None if there is none."""
    line = text.rstrip().rpartition("\n")[2]
    ends = [match.end() for match in _CLAUSE.finditer(line)]
    return line[ends[-1] :].rstrip(". ") or None if ends else None
