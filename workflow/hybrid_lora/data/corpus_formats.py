"""From a corpus's raw rows to conversations with a source, a gold answer and, for code, tests.

mixture-of-thoughts has no gold column: the gold is the trace's own final answer (the last \\boxed{} after its </think>, with
those that belong to it, `\\boxed{1} and \\boxed{2}`; for science also "The answer is (C)"), so it is only as right as the trace.
Rows that bring a `gold` column of their own (our generated ones, where a wrong trace must not make a wrong gold) keep it. Code
rows have tests only where they bring them.
leetcode is LeetCodeDataset: every row brings its tests, and the worked solution is the canonical program, which passes them.
"""

import re

from hybrid_lora.common.errors import UserError
from hybrid_lora.grading import boxed

FORMATS = ("mixture-of-thoughts", "gsm8k", "leetcode")
# What the configs of the hub's data set are called, and the data sets they were made from.
SOURCES = {
    "math": "math",
    "code": "code",
    "science": "science",
    "open-r1/OpenR1-Math-220k": "math",
    "open-r1/codeforces-cots": "code",
    "nvidia/Llama-Nemotron-Post-Training-Dataset": "science",
}
TESTS = ("prompt", "test", "entry_point")  # what a LeetCodeDataset program is run with
# Not the E of "E = mc^2" or of "E. coli".
_LETTER = re.compile(r"[Tt]he answer is \(?([A-J])\)?(?![A-Za-z])(?!\s*[=<>+*/^_\\\u2248])(?!\.\s+[a-z])")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"-?[0-9][0-9,]*(\.[0-9]+)?")


def conversation(row, format, template, where):
    """{source, messages, gold, num_tokens, tests} of one raw row; UserError naming `where` and the column.

    template: the user message's format string; mixture-of-thoughts offers {prompt}, gsm8k and leetcode their own columns.
    """
    return _MAKE[format](row, template, where)


def _mixture(row, template, where):
    for name in ("messages", "num_tokens", "source"):
        if row.get(name) is None:
            raise UserError(f"{where}: column '{name}' is missing; format mixture-of-thoughts needs messages, num_tokens, source")
    tokens, brought, tests = row["num_tokens"], row.get("gold"), row.get("tests")
    for name, value, kinds, expected in (
        ("num_tokens", tokens, int, "int"),
        ("gold", brought, str | int | None, "text"),
        ("tests", tests, dict | None, f"an object with {', '.join(TESTS)}"),
    ):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UserError(f"{where}: column '{name}' is a {type(value).__name__}, expected {expected}")
    for name, value in (tests or {}).items():
        if name in TESTS and not isinstance(value, str | None):
            raise UserError(f"{where}: column 'tests': {name} is a {type(value).__name__}, expected text")
    source = SOURCES.get(row["source"]) if isinstance(row["source"], str) else None
    if source is None:
        raise UserError(f"{where}: source is {str(row['source'])[:60]!r}, allowed: {', '.join(SOURCES)}")
    messages = _messages(row["messages"], where)
    messages[-2]["content"] = _fill(template, {"prompt": messages[-2]["content"]}, where)
    gold = brought if "gold" in row else _own_gold(messages[-1]["content"], source)
    gold = str(gold) if isinstance(gold, int) else gold
    return {"source": source, "messages": messages, "gold": gold, "num_tokens": tokens, "tests": tests}


def _messages(messages, where):
    try:
        copied = [{"role": m["role"], "content": m["content"]} for m in messages]
    except (TypeError, KeyError):
        copied = [{}]
    if not all(isinstance(m.get(key), str) for m in copied for key in ("role", "content")):
        raise UserError(f"{where}: column 'messages' must be a list of objects with the texts role and content")
    roles = [m["role"] for m in copied]
    if roles[-2:] != ["user", "assistant"]:
        found = ", ".join(roles)[:60]
        raise UserError(f"{where}: column 'messages' must end with a user's and an assistant's message, found: {found}")
    return copied


def _own_gold(text, source):
    if source == "code":
        return None
    thought, _, answer = text.rpartition("</think>")
    text = answer if answer.strip() else thought  # an answer that was only considered is none
    gold = boxed.answer(text)
    if gold is None and source == "science" and (letters := _LETTER.findall(text)):
        return letters[-1]
    return gold


def _gsm8k(row, template, where):
    for name in ("question", "answer"):
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: column '{name}' is missing or no text; format gsm8k needs question, answer")
    steps, mark, final = row["answer"].rpartition("####")
    gold = final.strip()
    if not mark or not _NUMBER.fullmatch(gold):
        raise UserError(f"{where}: column 'answer' must end with '#### NUMBER'")
    gold = gold.replace(",", "")
    solution = f"{_CALCULATOR.sub('', steps).strip()}\nThe answer is \\boxed{{{gold}}}.".lstrip()
    messages = [{"role": "user", "content": _fill(template, row, where)}, {"role": "assistant", "content": solution}]
    return {"source": "math", "messages": messages, "gold": gold, "num_tokens": None, "tests": None}


def _leetcode(row, template, where):
    meta = row.get("meta")
    if isinstance(meta, dict) and "query" in meta:  # v0.1.0
        row = {"query": meta["query"], **row}
    for name in ("query", "completion", *TESTS):
        if not isinstance(row.get(name), str):
            needed = ", ".join(("query", "completion", *TESTS))
            raise UserError(f"{where}: column '{name}' is missing or no text; format leetcode needs {needed}")
    messages = [
        {"role": "user", "content": _fill(template, row, where)},
        {"role": "assistant", "content": f"```python\n{row['completion'].strip()}\n```"},
    ]
    tests = {name: row[name] for name in TESTS}
    return {"source": "code", "messages": messages, "gold": None, "num_tokens": None, "tests": tests}


def _fill(template, fields, where):
    try:
        return template.format(**fields)
    except KeyError as error:
        raise UserError(f"{where}: settings.prompt names {{{error.args[0]}}}, allowed: {', '.join(fields)}") from None
    except (ValueError, IndexError, AttributeError) as error:
        raise UserError(f"settings.prompt is not a template ({error}); write literal braces twice") from None


_MAKE = {"mixture-of-thoughts": _mixture, "gsm8k": _gsm8k, "leetcode": _leetcode}
