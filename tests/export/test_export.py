"""What training leaves and `export` writes: folders that others load without our code."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from exported import FFT, OBJECTIVE, front, policy
from safetensors.torch import load_file
from trainings import trained
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybrid_lora.__main__ import main
from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import load

ADAPTERS = ["hybrid", "lora", "lora-ffn"]
IDS = torch.arange(60).reshape(3, 20)


WITHOUT_US = """
import importlib.util, os, sys
sys.path = [path for path in sys.path if not os.path.isdir(os.path.join(path, "hybrid_lora"))]  # an editable installation's
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
assert importlib.util.find_spec("hybrid_lora") is None, sys.path
"""


def alone(code, *arguments):
    """Run `code` in a Python that cannot import our package; what it prints."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", WITHOUT_US + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


ADAPTER_LOGITS = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
torch.save(model(input_ids=torch.arange(60).reshape(3, 20)).logits.detach(), sys.argv[3])
names = [name for name, _ in model.named_parameters()]
print(sum(".lora_A." in name for name in names), sum(".modules_to_save." in name for name in names))
"""
PLAIN_LOGITS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
words = AutoTokenizer.from_pretrained(sys.argv[1])
assert words.chat_template and words("Compute 1+1.")["input_ids"]
torch.save(model(input_ids=torch.arange(60).reshape(3, 20)).logits.detach(), sys.argv[2])
print(type(model).__name__, model.dtype)
"""


@pytest.mark.parametrize(("run", "placed"), [("hybrid", "11 5"), ("lora", "14 0"), ("lora-ffn", "6 14")])
def test_round_trip_without_our_code(work, tmp_path, model_folder, run, placed):
    """Adapter by PEFT alone and merged folder by transformers alone: equal logits, both far from the base's."""
    printed = alone(ADAPTER_LOGITS, model_folder, policy(work, run), tmp_path / "adapter.pt")
    assert printed.split("\n")[0] == placed  # two of the three in full have a bias
    assert main(["export", "--run", run, "--merged", "--out", str(tmp_path / "merged")]) == 0
    assert alone(PLAIN_LOGITS, tmp_path / "merged", tmp_path / "merged.pt").split() == ["Qwen2ForCausalLM", "torch.float32"]
    one, two = torch.load(tmp_path / "adapter.pt"), torch.load(tmp_path / "merged.pt")
    torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)
    original = load.model(model_folder).eval()(input_ids=IDS).logits
    assert (one - original).abs().max() > 0.01


def test_full_fine_tuning_is_a_plain_folder_as_it_is_and_exported(work, tmp_path):
    assert main(["export", "--run", "full", "--out", str(tmp_path / "out")]) == 0
    alone(PLAIN_LOGITS, policy(work, "full"), tmp_path / "policy.pt")
    alone(PLAIN_LOGITS, tmp_path / "out", tmp_path / "out.pt")
    assert torch.equal(torch.load(tmp_path / "policy.pt"), torch.load(tmp_path / "out.pt"))
    assert front(tmp_path / "out")["library_name"] == front(policy(work, "full"))["library_name"] == "transformers"


@pytest.mark.parametrize("run", ["hybrid", "full"])
def test_tied_embeddings_stay_tied(tmp_path, run):
    main(["export", "--run", run, "--merged", "--out", str(tmp_path / "out")])
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not [name for name in names if "lora" in name or "base_layer" in name or "modules_to_save" in name]


@pytest.mark.parametrize("run", ["hybrid", "full"])
def test_bfloat16_is_float32_rounded_once(tmp_path, run):
    main(["export", "--run", run, "--merged", "--out", str(tmp_path / "exact")])
    main(["export", "--run", run, "--merged", "--dtype", "bfloat16", "--out", str(tmp_path / "half")])
    exact, half = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "half"))
    assert {t.dtype for t in exact.values()} == {torch.float32} and {t.dtype for t in half.values()} == {torch.bfloat16}
    assert all(torch.equal(half[name], exact[name].bfloat16()) for name in exact)
    assert read_json(tmp_path / "half/config.json")["dtype"] == "bfloat16"


def test_exact_names_are_kept(work, model_folder):
    """More than 20 targets make PEFT write endings; ours are the model's names, in its order."""
    every = [m["module"] for m in modules_file.read(model_folder / "modules.json")["modules"]]
    config = read_json(policy(work, "hybrid") / "adapter_config.json")
    assert config["target_modules"] == [name for name in every if name not in FFT]
    assert set(config["modules_to_save"]) == set(FFT)
    about = read_json(policy(work, "hybrid") / "manifest.json")["placement"]
    assert about["lora"] == config["target_modules"] and set(about["fft"]) == set(FFT)
    assert read_json(policy(work, "lora") / "adapter_config.json")["target_modules"] == every


def test_many_names_are_exact_though_peft_shortens_them(tmp_path, corpus_files):
    """A model of four layers has 28 candidates, of which PEFT makes endings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.modeling import candidates, hybrid
    from hybrid_lora.training import publishing, validation

    words = AutoTokenizer.from_pretrained(policy_tokenizer())
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(words), num_key_value_heads=1, **shape))
    names = [c.module for c in candidates.find(model)]
    from peft import get_peft_model

    fft = ["model.layers.3.mlp.up_proj"]
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "names": [n for n in names if n not in fft]}
    wrapped = get_peft_model(model, hybrid.lora_config(lora, fft))
    validation.save_policy(wrapped, tmp_path)
    assert set(read_json(tmp_path / "adapter_config.json")["target_modules"]) != set(lora["names"])  # the trap
    placed = publishing._placement(tmp_path, None)
    assert placed["lora"] == lora["names"] and placed["fft"] == fft


def policy_tokenizer():
    return "results/training/full/policy"


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    return error


def test_what_is_refused_is_one_line(work, tmp_path, capsys, model_folder):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    assert "exists; nothing is overwritten" in refused(capsys, "--run", "lora", "--merged", "--out", taken)
    assert (taken / "mine.txt").read_text() == "keep"
    error = refused(capsys, "--run", "lor", "--out", tmp_path / "x")
    assert "results/training/lor/policy: no trained policy" in error and "full, hybrid, lora, lora-ffn" in error
    assert "an adapter keeps its float32" in refused(capsys, "--run", "lora", "--dtype", "bfloat16", "--out", tmp_path / "x")
    missing = refused(capsys, "--run", "lora", "--model", tmp_path, "--out", tmp_path / "x")
    assert "not the folder of the base model tiny" in missing
    other = tmp_path / "other"
    other.mkdir()
    for file in model_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    about = json.loads((other / "manifest.json").read_text())
    about["outputs"]["model.safetensors"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(about))
    assert "other weights than" in refused(capsys, "--run", "lora", "--model", other, "--out", tmp_path / "x")
    assert not list(tmp_path.glob(".*.tmp")) and not (tmp_path / "x").exists()


def test_damaged_folders_are_one_line(work, tmp_path, capsys, model_folder):
    for run, name in (("lora", "adapter_model.safetensors"), ("full", "model.safetensors")):
        broken = tmp_path / run
        shutil.copytree(policy(work, run), broken)
        os.truncate(broken / name, 1000)
        for merged in ([], ["--merged"]):
            error = refused(capsys, "--policy", broken, *merged, "--out", tmp_path / "x")
            assert f"{broken / name}: damaged, its SHA-256 is not the one in manifest.json" in error
    (broken / "model.safetensors").unlink()
    assert "model.safetensors: no such file" in refused(capsys, "--policy", broken, "--out", tmp_path / "x")
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    os.truncate(base / "model.safetensors", 1000)
    error = refused(capsys, "--run", "lora", "--model", base, "--merged", "--out", tmp_path / "x")
    assert f"{base}: cannot be loaded (" in error
    (tmp_path / "file").write_text("")
    assert "file: cannot be written (" in refused(capsys, "--run", "lora", "--out", tmp_path / "file/x")
    assert not list(tmp_path.glob(".*.tmp")) and not (tmp_path / "x").exists()


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    from hybrid_lora.export import folder

    def fails(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_describe", fails)
    assert main(["export", "--run", "lora", "--merged", "--out", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("placement", ["lora", "full"])
def test_what_a_multimodal_model_has_beside_its_tokenizer_comes_along(placement, tmp_path, model_folder, corpus_files):
    shutil.copytree(model_folder, tmp_path / "base")
    (tmp_path / "base/preprocessor_config.json").write_text('{"image_size": 224}')
    trained(tmp_path / "made", tmp_path / "base", corpus_files, OBJECTIVE, placement)
    given = ["--model", str(tmp_path / "base")] if placement == "lora" else []
    command = ["export", "--policy", str(tmp_path / "made/policy"), "--merged", "--out", str(tmp_path / "out"), *given]
    assert main(command) == 0
    for folder in (tmp_path / "made/policy", tmp_path / "out"):
        assert read_json(folder / "preprocessor_config.json") == {"image_size": 224}
        assert "preprocessor_config.json" in read_json(folder / "manifest.json")["outputs"]
