"""Small data for tests, in the contracts' formats."""

import random


def conversations(count, seed=0):
    """Corpus rows: one-digit additions with worked solutions, all verified."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        messages = [
            {"role": "user", "content": f"Compute {a}+{b}."},
            {"role": "assistant", "content": f"{a}+{b}={a + b}\nThe answer is \\boxed{{{a + b}}}."},
        ]
        rows.append(
            {"id": f"r{i:05d}", "source": "math", "messages": messages, "gold": str(a + b), "num_tokens": 20, "tests": None}
        )
    return rows
