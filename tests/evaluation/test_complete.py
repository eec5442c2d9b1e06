"""Completions with the real transformers backend: fields, prompts, seeds, and batches that survive an interruption."""

import argparse
import hashlib
import json
import shutil
import sys

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import complete, prompts, transformers_backend, vllm_backend
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


def test_the_models_own_sampling_defaults_are_not_used(tmp_path, model_folder, benchmark):
    """Qwen2.5's generation_config.json asks for a repetition penalty; the settings do not."""
    other = tmp_path / "model"
    shutil.copytree(model_folder, other)
    own = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(own | {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1}))
    for temperature in (0.0, 1.0):
        plain = run(tmp_path / f"a{temperature}", model_folder, benchmark, temperature=temperature, max_new_tokens=12)
        assert run(tmp_path / f"b{temperature}", other, benchmark, temperature=temperature, max_new_tokens=12) == plain


def test_batches_may_finish_in_any_order(tmp_path, model_folder, benchmark, monkeypatch):
    """An engine that schedules by itself is handed all batches; rows come out as if it had done them in turn."""
    import contextlib

    whole, real, handed = run(tmp_path / "whole", model_folder, benchmark), transformers_backend.open_engine, []

    class Scheduling:
        def __init__(self, generate):
            self.generate = generate

        def stream(self, batches):
            handed.append(len(batches))
            for key, texts, seed in reversed(batches):
                yield key, self.generate(texts, seed)

    @contextlib.contextmanager
    def engine(*arguments):
        with real(*arguments) as generate:
            yield Scheduling(generate)

    monkeypatch.setattr(transformers_backend, "open_engine", engine)
    assert run(tmp_path / "any", model_folder, benchmark) == whole
    assert handed == [3]


def test_prompt_beyond_the_context(tmp_path, model_folder, benchmark):
    with pytest.raises(UserError) as error:
        run(tmp_path, model_folder, benchmark, prompt="{problem} SECRET" + " word" * 300)
    assert str(error.value).startswith("math-500: the prompt of id 'p")
    assert "leaves no room in the context of 256" in str(error.value) and "\n" not in str(error.value)
    assert "SECRET" not in str(error.value)


def test_context_that_is_set_for_vllm(tmp_path, model_folder, benchmark):
    with pytest.raises(UserError, match=r"has \d+ tokens, which leaves no room in the context of 8;"):
        run(tmp_path, model_folder, benchmark, backend="vllm", vllm={"max_model_len": 8})


def test_what_is_cut_off_is_reported(tmp_path, model_folder, benchmark, capfd):
    rows = run(tmp_path, model_folder, benchmark)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    told = capfd.readouterr().err
    assert f"r math-500: {cut} of 10 completions are cut off" in told and "prompts leave less" not in told
    run(tmp_path, model_folder, benchmark, max_new_tokens=250, samples=1)
    assert "math-500: 5 of 5 prompts leave less than max_new_tokens, 250, of the context of 256" in capfd.readouterr().err


def test_vllm_that_is_not_installed(tmp_path, model_folder, benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for name in vllm_backend.PRIVATE:
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=r"^evaluation\.backend is vllm, which is not installed; use the GPU lock or backend: tr"):
        run(tmp_path, model_folder, benchmark, backend="vllm")


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
