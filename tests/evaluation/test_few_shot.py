"""Few-shot prompts: from the examples' file through the benchmark file to the rendered turns, and refusals in one line."""

import argparse
import hashlib
import json

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import complete, prompts
from hybrid_lora.modeling import load

TEMPLATE = "{question}\n{options}"
FEW_SHOT = {"count": 2, "group": "category", "answer": "{cot_content} So ({gold})."}


def row(number, category="law", **more):
    base = {"question_id": number, "id": str(number), "question": f"Q{number}?", "options": ["x", "y", "z"], "gold": "B"}
    return {**base, "category": category, "cot_content": f"Because {number}.", **more}


EXAMPLES = [row(90, "math"), row(91), row(92), row(93)]


def user(number):
    return f"<|im_start|>user\nQ{number}?\nA. x\nB. y\nC. z<|im_end|>\n"


def assistant(number):
    return f"<|im_start|>assistant\nBecause {number}. So (B).<|im_end|>\n"


EXPECTED = user(91) + assistant(91) + user(92) + assistant(92) + user(1) + "<|im_start|>assistant\n"


def test_examples_of_the_row_s_group_are_turns_of_the_conversation(model_folder):
    words = load.tokenizer(model_folder)
    assert prompts.render(words, TEMPLATE, row(1), "b", FEW_SHOT, EXAMPLES) == EXPECTED
    first = prompts.render(words, TEMPLATE, row(1), "b", {**FEW_SHOT, "group": None, "count": 1}, EXAMPLES)
    assert first == user(90) + assistant(90) + user(1) + "<|im_start|>assistant\n"
    zero = prompts.render(words, TEMPLATE, row(1), "b")
    assert prompts.render(words, TEMPLATE, row(1), "b", {**FEW_SHOT, "count": 0}, EXAMPLES) == zero == EXPECTED[-len(zero) :]


def test_complete_takes_the_examples_from_the_benchmark_file(tmp_path, model_folder):
    benchmarks.write(tmp_path / "b.parquet", [row(1)], "mmlu-pro", EXAMPLES)
    settings = {
        "run": "r",
        "seed": 0,
        "benchmark": "mmlu-pro",
        "prompt": TEMPLATE,
        "samples": 1,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    settings |= {"max_new_tokens": 2, "backend": "transformers", "batch_size": 4, "dtype": "float32", "few_shot": FEW_SHOT}
    files = {"model": model_folder, "benchmark": tmp_path / "b.parquet", "out": tmp_path / "c.parquet", "state": tmp_path / "s"}
    complete.run(argparse.Namespace(settings=settings, policy=[], **files))
    found = completions.read(tmp_path / "c.parquet")[0]["prompt_sha256"]
    assert found == hashlib.sha256(EXPECTED.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "examples", "said"),
    [
        ({"count": 3, "group": "category"}, EXAMPLES[:3], "holds 2 examples for id '1', few_shot.count is 3"),
        ({"answer": "{reason}"}, EXAMPLES, "b, few-shot answer: prompt template names field 'reason'"),
        ({"answer": "{gold.letter}"}, EXAMPLES, "b, few-shot answer: prompt template cannot be filled"),
        ({}, [], "holds 0 examples for id '1'"),
    ],
)
def test_refusals_are_one_line(changes, examples, said, model_folder):
    with pytest.raises(UserError) as caught:
        prompts.render(load.tokenizer(model_folder), TEMPLATE, row(1), "b", {**FEW_SHOT, **changes}, examples)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "Q9" not in str(caught.value) and "Because" not in str(caught.value)


def test_examples_are_json_values(tmp_path):
    benchmarks.write(tmp_path / "b.parquet", [row(1)], "mmlu-pro", EXAMPLES)
    assert benchmarks.about(tmp_path / "b.parquet") == {"format": "mmlu-pro", "kind": "choice", "examples": EXAMPLES}
    benchmarks.write(tmp_path / "b.parquet", [row(1)], "mmlu-pro")
    assert benchmarks.about(tmp_path / "b.parquet")["examples"] == []
    assert json.loads(json.dumps(EXAMPLES)) == EXAMPLES
