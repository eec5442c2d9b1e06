"""Generated benchmarks: held-out problems in exactly the columns of the real sources, so both take the same path."""

import random

from hybrid_lora.common import seeds
from hybrid_lora.data.generated import programs, split, stories, sums


def rows(format, problems, seed):
    """List of `problems` raw rows in the columns of `format`'s real source; UserError if so many do not exist."""
    space, key = _SPACE[format]
    chosen = split.block(space(), key, problems, seed, format)
    return [_ROW[format](problem, i) for i, problem in enumerate(chosen)]


def _math(problem, _number):
    return {
        "problem": sums.statement(problem),
        "solution": sums.solution(problem)[0],
        "answer": str(sum(problem)),
        "subject": "Arithmetic",
        "level": len(problem) - 1,
        "unique_id": f"generated/sum/{'-'.join(map(str, problem))}.json",
    }


def _aime(problem, number):
    return {
        "id": number,
        "problem": sums.statement(problem),
        "solution": sums.solution(problem)[0],
        "answer": f"{sum(problem):03d}",
        "url": "",
        "question": sums.statement(problem),
    }


def _choices(problem, least, most):
    """Options drawn from a seed of the problem's own, so they do not depend on which other problems are chosen."""
    rng = random.Random(seeds.derive(0, "options", *problem))
    return stories.options(rng, rng.randint(least, most), {stories.answer(problem)})


def _mmlu_pro(problem, number):
    choices = _choices(problem, 3, 10)
    index = choices.index(stories.answer(problem))
    return {
        "question_id": number,
        "question": stories.statement(problem),
        "options": [str(choice) for choice in choices],
        "answer": stories.LETTERS[index],
        "answer_index": index,
        "cot_content": "",
        "category": stories.ITEMS[problem[0]][0],
        "src": "generated-story",
    }


def _gpqa(problem, _number):
    right = stories.answer(problem)
    wrong = [choice for choice in _choices(problem, 4, 4) if choice != right]
    subject, subdomain, _, _ = stories.ITEMS[problem[0]]
    return {
        "Record ID": "gen" + "".join(map(str, problem)).replace("+", "p").replace("-", "m"),
        "Question": stories.statement(problem),
        "Correct Answer": str(right),
        **{f"Incorrect Answer {i}": str(choice) for i, choice in enumerate(wrong, 1)},
        "Subdomain": subdomain,
        "High-level domain": subject.capitalize(),
    }


def _leetcode(problem, number):
    code, text = programs.completion(problem), programs.statement(problem)
    return {
        "task_id": "solve-" + "-".join(f"{ {'+': 'add', '-': 'sub', '*': 'mul'}[op] }-{c}" for op, c in problem),
        "question_id": number,
        "difficulty": {3: "Easy", 4: "Medium"}[len(problem)],
        "tags": ["Math"],
        "problem_description": text,
        "starter_code": programs.STARTER + "        ",
        "estimated_date": "2000-01-01",
        **programs.tests(problem),
        "completion": code,
        "input_output": [{"input": f"x = {x}", "output": str(programs.value(problem, x))} for x in programs.INPUTS],
        "query": text,
        "response": programs.fenced(code),
    }


_SPACE = {  # all held-out problems, and the key of one
    "math-500": (lambda: sums.benchmark_problems((3, 4)), sums.held_out_key),
    "aime": (lambda: sums.benchmark_problems((5, 6)), sums.held_out_key),
    "mmlu-pro": (lambda: stories.benchmark_problems(stories.MMLU_PRO_ITEMS), stories.held_out_key),
    "gpqa": (lambda: stories.benchmark_problems(stories.GPQA_ITEMS), stories.held_out_key),
    "leetcode": (programs.benchmark_problems, programs.held_out_key),
}
_ROW = {"math-500": _math, "aime": _aime, "mmlu-pro": _mmlu_pro, "gpqa": _gpqa, "leetcode": _leetcode}
