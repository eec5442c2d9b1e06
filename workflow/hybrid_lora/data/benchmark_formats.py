"""From a benchmark's raw rows, in its source's own columns, to rows with `id` and `gold`, `options` or `tests` added.

Real and generated rows take this same path. Every format is read as its publisher writes it:
- aime: golds with leading zeros ("025") become canonical integers ("25"); files with and without ids.
- mmlu-pro: 3 to 10 options; where `answer_index` contradicts the letter (question 3983) the letter wins.
- gpqa: the four answers are shuffled by a seed derived from the record's id, so that every run sees the same letters
  (or sorted, by setting: the generated questions' options are numbers in a row).
- leetcode: `tests` is what the LeetCodeDataset's programs are made of (prompt + completion + test).
"""

import random
import re

from hybrid_lora.common import seeds
from hybrid_lora.common.errors import UserError

LETTERS = "ABCDEFGHIJ"
_GPQA_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
REQUIRED = {  # the columns that must be there; others are carried along, prompt templates may name them
    "math-500": {"problem": str, "answer": str, "unique_id": str},
    "aime": {"problem": str, "answer": (str, int)},
    "mmlu-pro": {"question_id": int, "question": str, "options": list, "answer": str, "category": str},
    "gpqa": {"Record ID": str, "Question": str, **dict.fromkeys(_GPQA_ANSWERS, str)},
    "leetcode": dict.fromkeys(("task_id", "prompt", "completion", "entry_point", "test", "query"), str),
}


def normalise(rows, format, place, option_order="shuffled"):
    """List of rows with `id` and `gold`, `options` or `tests`; UserError (one line) naming `place`, row and column.

    option_order: shuffled | sorted, for gpqa, whose source tells the answers apart but gives them no order.
    """
    made = []
    for i, row in enumerate(rows, 1):
        where = f"{place}: row {i}"
        _check(row, REQUIRED[format], where, format)
        made.append({**row, **_ADD[format](row, i, where)})
        if format == "gpqa":
            made[-1] |= _options(row, option_order)
    _unique(made, place)
    return made


def _check(row, required, where, format):
    for name, kinds in required.items():
        if name not in row:
            found = ", ".join(map(str, row))
            raise UserError(f"{where}: column '{name}' is missing; format {format} needs {', '.join(required)} (found {found})")
        if isinstance(row[name], bool) or not isinstance(row[name], kinds):
            kinds = kinds if isinstance(kinds, tuple) else (kinds,)
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{where}: column '{name}' is a {type(row[name]).__name__}, format {format} needs {expected}")


def _unique(rows, place):
    seen = {}
    for i, row in enumerate(rows, 1):
        if row["id"] in seen:
            raise UserError(f"{place}: id '{row['id']}' stands in rows {seen[row['id']]} and {i}, ids must be unique")
        seen[row["id"]] = i


def _math(row, _number, _where):
    return {"id": row["unique_id"], "gold": row["answer"]}


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


def _gpqa(row, _number, _where):
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


def _leetcode(row, _number, _where):
    added = {"id": row["task_id"], "tests": {key: row[key] for key in ("prompt", "test", "entry_point")}}
    if not isinstance(row.get("estimated_date", ""), str):  # `datasets` reads the date's text as a timestamp
        added["estimated_date"] = str(row["estimated_date"])[:10]
    return added


_ADD = {"math-500": _math, "aime": _aime, "mmlu-pro": _mmlu_pro, "gpqa": _gpqa, "leetcode": _leetcode}
