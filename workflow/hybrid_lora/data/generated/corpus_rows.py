"""A generated corpus in Mixture-of-Thoughts' columns, plus `gold` (always the true answer), `tests` (code) and `problem`.

`problem` is the key by which a problem is told from others whatever its words (see `split`).

`wrong_steps` makes a base model that is right only sometimes, which reinforcement learning can improve: each addition,
option letter or code line is wrong with that probability, and the solution goes on from there.
"""

import random
import re

from hybrid_lora.common import seeds
from hybrid_lora.data import settings as checks
from hybrid_lora.data.generated import programs, stories, sums

COT, IO = "\nThink step by step.", "\nAnswer only."  # how config/demo.yaml's prompts end
_SHARES = {"math": 0.40, "science": 0.35, "code": 0.25}
_TOKEN = re.compile(r"[A-Za-z]+|[^A-Za-z\s]")
_WITHIN = "settings.generated"


def rows(generated):
    """List of raw rows. generated: {rows, wrong_steps, direct_answers, seed}."""
    count = checks.number(generated, "rows", least=1, within=_WITHIN)
    seed = checks.number(generated, "seed", within=_WITHIN)
    wrong = checks.share(generated, "wrong_steps", within=_WITHIN)
    direct = checks.share(generated, "direct_answers", within=_WITHIN)
    return [_row(random.Random(seeds.derive(seed, "generated row", i)), wrong, direct) for i in range(count)]


def _row(rng, wrong, direct):
    source = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
    short = rng.random() < direct
    key, question, reply, gold, tests = _MAKE[source](rng, wrong, short)
    prompt = question + (IO if short else COT)
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}],
        "num_tokens": len(_TOKEN.findall(prompt + "\n" + reply)),  # words, digits and marks: near to the demo's tokenizer
        "source": source,
        "gold": gold,
        "tests": tests,
        "problem": f"{source} {' '.join(map(str, key))}",
    }


def _math(rng, wrong, short):
    problem = sums.draw(rng)
    worked, value = sums.solution(problem, rng, wrong)
    reply = f"\\boxed{{{value}}}" if short else worked
    return sums.held_out_key(problem), sums.statement(problem), reply, str(sum(problem)), None


def _science(rng, wrong, short):
    problem = stories.draw(rng)
    lines, value = stories.steps(problem, rng, wrong)
    true = stories.answer(problem)
    count = 4 if rng.random() < 0.3 else rng.randint(3, 10)  # GPQA has 4 options, MMLU-Pro 3 to 10
    choices = stories.options(rng, count, {true, value})
    worked, letter = stories.solution(lines, value, choices, rng, wrong)
    question = f"{stories.statement(problem)}\n{stories.listed(choices)}"
    reply = f"({letter})" if short else worked
    return stories.held_out_key(problem), question, reply, stories.LETTERS[choices.index(true)], None


def _code(rng, wrong, _short):
    problem = programs.draw(rng)
    reply = programs.fenced(programs.completion(problem, rng, wrong))
    return programs.held_out_key(problem), programs.statement(problem), reply, None, programs.tests(problem)


_MAKE = {"math": _math, "science": _science, "code": _code}
