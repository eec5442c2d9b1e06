"""Completions with the real transformers backend: fields, prompts, seeds, and batches that survive an interruption."""

import argparse
import hashlib

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import complete, prompts, transformers_backend
from hybrid_lora.modeling import load

SETTINGS = {
    "run": "r",
    "seed": 0,
    "benchmark": "math-500",
    "prompt": "{problem}\nThink.",
    "samples": 2,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 6,
    "backend": "transformers",
    "batch_size": 4,
    "dtype": "float32",
}


@pytest.fixture
def benchmark(tmp_path):
    rows = [{"id": f"p{i}", "problem": f"Compute {i}+{'1' * (i % 3)}.", "gold": str(i)} for i in range(5)]
    benchmarks.write(tmp_path / "b.parquet", rows, "math-500")
    return tmp_path / "b.parquet"


def run(folder, model_folder, benchmark, **change):
    arguments = argparse.Namespace(
        settings=SETTINGS | change,
        model=model_folder,
        policy=[],
        benchmark=benchmark,
        out=folder / "c.parquet",
        state=folder / "state",
    )
    complete.run(arguments)
    return completions.read(folder / "c.parquet")


def test_rows(tmp_path, model_folder, benchmark):
    rows = run(tmp_path, model_folder, benchmark)
    assert [(r["id"], r["sample"]) for r in rows] == [(f"p{i}", s) for i in range(5) for s in range(2)]
    assert all(1 <= r["tokens"] <= 6 for r in rows)
    assert all((r["finish_reason"] == "length") == (r["tokens"] == 6) or r["tokens"] == 6 for r in rows)
    words = load.tokenizer(model_folder)
    text = "<|im_start|>user\nCompute 0+.\nThink.<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.render(words, SETTINGS["prompt"], {"problem": "Compute 0+."}, "b") == text
    assert rows[0]["prompt_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert not (tmp_path / "state").exists()


def test_same_seed_same_text_other_seed_other_text(tmp_path, model_folder, benchmark):
    one = run(tmp_path / "a", model_folder, benchmark)
    assert run(tmp_path / "b", model_folder, benchmark) == one
    assert [r["completion"] for r in run(tmp_path / "c", model_folder, benchmark, seed=1)] != [r["completion"] for r in one]


def test_finished_batches_survive_a_kill(tmp_path, model_folder, benchmark, monkeypatch):
    whole = run(tmp_path / "whole", model_folder, benchmark)
    real, seen = transformers_backend.open_engine, []

    def watched(stop_after):
        import contextlib

        @contextlib.contextmanager
        def engine(*arguments):
            with real(*arguments) as generate:

                def counted(texts, seed):
                    if len(seen) == stop_after:
                        raise KeyboardInterrupt
                    seen.append(len(texts))
                    return generate(texts, seed)

                yield counted

        return engine

    monkeypatch.setattr(transformers_backend, "open_engine", watched(2))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", model_folder, benchmark)
    assert not (tmp_path / "cut/c.parquet").exists()
    monkeypatch.setattr(transformers_backend, "open_engine", watched(99))
    assert run(tmp_path / "cut", model_folder, benchmark) == whole
    assert seen == [4, 4, 2]  # ten samples in batches of four, none twice


def test_options_are_listed_by_letter(model_folder):
    words = load.tokenizer(model_folder)
    text = prompts.render(words, "{question}\n{options}", {"question": "Q?", "options": ["x", "y"]}, "b")
    assert "Q?\nA. x\nB. y<|im_end|>" in text


def test_unknown_field_names_the_known_ones_but_no_question(model_folder):
    row = {"id": "1", "Question": "SECRET", "gold": "A", "options": ["SECRET"]}
    with pytest.raises(UserError) as error:
        prompts.render(load.tokenizer(model_folder), "{problem}", row, "gpqa.parquet")
    assert "gpqa.parquet: prompt template names field 'problem'; this benchmark has Question, gold, id, options" in str(
        error.value
    )
    assert "SECRET" not in str(error.value)
