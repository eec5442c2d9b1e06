"""From a benchmark's raw rows, in its source's own columns, to rows with `id` and `gold`, `options` or `tests` added.

Real and generated rows take this same path. Every format is read as its publisher writes it:
- aime: golds with leading zeros ("025") become canonical integers ("25"); files with and without ids.
- mmlu-pro: 3 to 10 options; where `answer_index` contradicts the letter (question 3983) the letter wins.
- gpqa: the four answers are shuffled by a seed derived from the record's id, so that every run sees the same letters
  (or sorted, by setting: the generated questions' options are numbers in a row).
- leetcode: `tests` is what the LeetCodeDataset's programs are made of (prompt + completion + test). Before v0.3.1 the
  description, the difficulty and (v0.1.0) the query lie in `meta`; they are lifted to v0.3.1's columns.
- math-500: other files of MATH's problems have no `unique_id`; there ids are numbers of rows, and a row may lack its answer.
- math-500, aime: LaTeX commands whose backslash a program took for an escape ("\\f" + "rac" is a form feed) are mended.
No message quotes a question, nor a column's name that no format knows: a file without its header has a question there.
"""

import random
import re

from hybrid_lora.common import seeds
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks

LETTERS = "ABCDEFGHIJ"
_GPQA_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
REQUIRED = {  # the columns that must be there; others are carried along, prompt templates may name them
    "math-500": {"problem": str, "answer": str, "unique_id": str},
    "aime": {"problem": str, "answer": (str, int)},
    "mmlu-pro": {"question_id": int, "question": str, "options": list, "answer": str, "category": str},
    "gpqa": {"Record ID": str, "Question": str, **dict.fromkeys(_GPQA_ANSWERS, str)},
    "leetcode": dict.fromkeys(("task_id", "prompt", "completion", "entry_point", "test", "query"), str),
}


# Control characters that stand for a backslash and a letter; tab and newline only before the rest of a known command.
_LOST = {"\x07": "a", "\x08": "b", "\x0b": "v", "\x0c": "f", "\t": "t", "\r": "r", "\n": "n"}
_COMMANDS = {
    "\t": "riangleq|riangle|extbf|extit|extrm|ext|imes|heta|anh|an|au|frac|ilde|op|herefore|o",
    "\r": "ight|angle|ceil|floor|ho",
    "\n": "eq",
}
_MANGLED = re.compile(
    "[\x07\x08\x0b\x0c](?=[A-Za-z])|" + "|".join(f"{start}(?=(?:{rest})(?![A-Za-z]))" for start, rest in _COMMANDS.items())
)


def normalise(rows, format, place, option_order="shuffled"):
    """List of rows with `id` and `gold`, `options` or `tests`; UserError (one line) naming `place`, row and column.

    option_order: shuffled | sorted, for gpqa, whose source tells the answers apart but gives them no order.
    """
    made, required = [], _required(rows, format)
    for i, row in enumerate(rows, 1):
        where = f"{place}: row {i}"
        row = _PREPARE.get(format, dict)(row)
        _check(row, required, where, format)
        made.append({**row, **_ADD[format](row, i, where)})
        if format == "gpqa":
            made[-1] |= _options(row, option_order)
    _unique(made, place)
    _questions(rows, made, format, place)
    return made


def _required(rows, format):
    if format == "math-500" and not any("unique_id" in row for row in rows):
        return {"problem": str, "answer": (str, type(None))}
    return REQUIRED[format]


def without_gold(made):
    """Ids of the rows whose answer the source does not give: their completions cannot be judged."""
    return [row["id"] for row in made if "gold" in row and row["gold"] is None]


def mended(rows, made):
    """Ids of the rows some of whose LaTeX commands were mended; rows: as read, made: of `normalise`."""
    changed = zip(rows, made)
    return [new["id"] for old, new in changed if any(isinstance(v, str) and new[k] != v for k, v in old.items() if k in _LATEX)]


def repeated(made, format):
    """Ids of the rows that ask again, with the same options, what an earlier row asks; MMLU-Pro is published with some."""
    seen, again = set(), []
    for row in made:
        text = row["query"] if format == "leetcode" else benchmarks.question(row, format)
        asked = (text.strip(), *sorted(row.get("options", ())))
        if asked in seen:
            again.append(row["id"])
        seen.add(asked)
    return again


def _questions(rows, made, format, place):
    for i, row in enumerate(made, 1):
        if not benchmarks.question(row, format).strip():
            raise UserError(f"{place}: row {i} has no question, its text is empty")
    if format == "aime" and "id" not in rows[0] and (again := repeated(made, format)):
        raise UserError(f"{place}: row {again[0]} repeats an earlier row's problem; a file without ids must not hold one twice")


def _check(row, required, where, format):
    for name, kinds in required.items():
        if name not in row:
            needed = ", ".join(required)
            raise UserError(f"{where}: column '{name}' is missing; format {format} needs {needed} (found {_found(row)})")
        if isinstance(row[name], bool) or not isinstance(row[name], kinds):
            kinds = kinds if isinstance(kinds, tuple) else (kinds,)
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{where}: column '{name}' is a {type(row[name]).__name__}, format {format} needs {expected}")


def _found(row):
    """The row's columns that some format needs, and how many others: those may be a question, where a header is lost."""
    known = [name for name in row if any(name in required for required in REQUIRED.values())]
    return ", ".join([*known, f"{len(row) - len(known)} others"])


def _unique(rows, place):
    seen = {}
    for i, row in enumerate(rows, 1):
        if row["id"] in seen:
            raise UserError(f"{place}: id '{row['id']}' stands in rows {seen[row['id']]} and {i}, ids must be unique")
        seen[row["id"]] = i


def _mend(row):
    """The row with LaTeX's backslashes put back in its texts."""
    return {k: _MANGLED.sub(lambda m: "\\" + _LOST[m[0]], v) if k in _LATEX and isinstance(v, str) else v for k, v in row.items()}


def _math(row, number, where):
    gold = row["answer"] if row["answer"] and row["answer"].strip() else None
    if gold is None and "unique_id" in row:
        raise UserError(f"{where}: column 'answer' is empty, format math-500 needs an answer to compare with")
    return {"id": row.get("unique_id", str(number)), "gold": gold}


def _aime(row, number, where):
    answer = str(row["answer"]).strip()
    if not re.fullmatch(r"[0-9]{1,3}", answer):
        raise UserError(f"{where}: answer is {answer[:40]!r}, allowed in format aime: a whole number from 0 to 999")
    return {"id": str(row.get("id", number)), "gold": str(int(answer))}


def _mmlu_pro(row, _number, where):
    options, letter = row["options"], row["answer"].strip()
    if not 3 <= len(options) <= len(LETTERS) or not all(isinstance(option, str) for option in options):
        raise UserError(f"{where}: column 'options' has {len(options)} entries, format mmlu-pro needs 3 to 10 texts")
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise UserError(f"{where}: answer is {letter[:10]!r}, allowed: a letter from A to {LETTERS[len(options) - 1]}")
    return {"id": str(row["question_id"]), "gold": letter}


def _gpqa(row, _number, where):
    for name in _GPQA_ANSWERS:
        if not row[name].strip():
            raise UserError(f"{where}: column '{name}' is empty, format gpqa needs four answers")
    return {"id": row["Record ID"], "question": row["Question"].strip()}


def _options(row, option_order):
    """GPQA's options and the letter of the right one."""
    answers = [row[name].strip() for name in _GPQA_ANSWERS]
    order = list(range(len(answers)))
    if option_order == "sorted":
        order.sort(key=lambda i: answers[i])
    else:
        random.Random(seeds.derive(0, "gpqa options", row["Record ID"])).shuffle(order)
    return {"options": [answers[i] for i in order], "gold": LETTERS[order.index(0)]}


def _lift(row):
    """The row with what older versions keep in `meta` in v0.3.1's columns too."""
    meta = row.get("meta")
    if not isinstance(meta, dict):
        return dict(row)
    return {**row, **{new: meta[old] for new, old in _META.items() if new not in row and old in meta}}


def _leetcode(row, _number, _where):
    added = {"id": row["task_id"], "tests": {key: row[key] for key in ("prompt", "test", "entry_point")}}
    if not isinstance(row.get("estimated_date", ""), str):  # `datasets` reads the date's text as a timestamp
        added["estimated_date"] = str(row["estimated_date"])[:10]
    return added


_META = {name: name for name in ("query", "response", "difficulty", "question_id")}  # v0.3.1's column: key in `meta`
_META |= {"problem_description": "question_title", "starter_code": "lang_code"}
_LATEX = ("problem", "solution", "question")  # of math-500 and aime
_PREPARE = {"math-500": _mend, "aime": _mend, "leetcode": _lift}
_ADD = {"math-500": _math, "aime": _aime, "mmlu-pro": _mmlu_pro, "gpqa": _gpqa, "leetcode": _leetcode}
