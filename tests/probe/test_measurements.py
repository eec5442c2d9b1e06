"""Perturbation (Eq. 9), output energy (LoRA-drop) and |w * grad w| (hybrid-4) against definitions written out by hand."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus, measurements
from hybrid_lora.modeling import batches, candidates, load
from hybrid_lora.probe import full_sensitivity, full_warmup, loop, outputs, perturbation, warmup

TRAINING = {
    "steps": 4,
    "batch_size": 4,
    "device_batch_size": 3,
    "schedule": "linear",
    "weight_decay": 0.0,
    "max_length": 64,
    "save_every": 1,
    "gradient_checkpointing": True,
    "seed": 0,
    "dtype": "float32",
}
PROBE = {
    "rank": 4,
    "init": {"method": "lora", "e": 1.0, "alpha": 1.0},
    "warmup": TRAINING | {"objective": "nll", "learning_rate": 0.02},
}
PERTURBATION = {"batch_size": 3, "batches_per_chunk": 2, "max_length": 64, "dtype": "float32"}
OUTPUTS = {"batches": 2, "batch_size": 3, "max_length": 64, "seed": 0, "dtype": "float32"}
FULL = {"batch_size": 3, "batches_per_chunk": 2, "max_length": 64, "gradient_checkpointing": False, "dtype": "float32"}


@pytest.fixture(scope="module")
def warm(model_folder, corpus_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    warmup.run(PROBE, model_folder, corpus_files[0], folder / "warmup", folder / "state")
    return folder / "warmup"


def batch(model_folder, path, first=0):
    """Three rows of the file in order of id."""
    words = load.tokenizer(model_folder)
    rows = sorted(corpus.read(path), key=lambda row: row["id"])[first : first + 3]
    return batches.collate([batches.encode(words, row["messages"], 64) for row in rows], words.pad_token_id)


def nll(model, batch):
    """Mean loss by transformers' own forward pass."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def test_perturbation_is_the_loss_without_the_branch(model_folder, warm, corpus_files, tmp_path):
    """Here a branch is removed by B = 0, and the loss is transformers' own."""
    perturbation.run(PERTURBATION, model_folder, warm, corpus_files[1], 1, tmp_path / "p.parquet", tmp_path / "state")
    table, about = measurements.read(tmp_path / "p.parquet")
    assert about["kind"] == "perturbation"
    rows = {(r["batch"], r["module"]): r for r in table.to_pylist()}
    assert len(rows) == 2 * 14 and {t for t, _ in rows} == {2, 3}
    model, branches = warmup.restore(model_folder, warm, "float32")
    one = batch(model_folder, corpus_files[1], first=6)
    with torch.no_grad():
        whole = nll(model.eval(), one).item()
        for name, branch in branches.items():
            kept = branch.B.clone()
            branch.B.zero_()
            expected = nll(model, one).item() - whole
            branch.B.copy_(kept)
            assert rows[2, name]["value"] == pytest.approx(expected, abs=2e-6)
            assert rows[2, name]["loss"] == pytest.approx(whole, rel=1e-6)
    assert max(abs(r["value"]) for r in rows.values()) > 1e-4  # the warm-up did something


def test_perturbation_resumes_after_a_kill(model_folder, warm, corpus_files, tmp_path, monkeypatch):
    arguments = PERTURBATION, model_folder, warm, corpus_files[1], 0
    perturbation.run(*arguments, tmp_path / "whole.parquet", tmp_path / "a")
    real, calls = perturbation.measure, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(perturbation, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        perturbation.run(*arguments, tmp_path / "again.parquet", tmp_path / "b")
    perturbation.run(*arguments, tmp_path / "again.parquet", tmp_path / "b")
    assert measurements.read(tmp_path / "again.parquet")[0].equals(measurements.read(tmp_path / "whole.parquet")[0])


@pytest.mark.parametrize(
    ("values", "whole", "message"),
    [
        ([0.0, float("nan")], 1.0, "validation batch 7: loss without the branch of module b is not finite"),
        ([0.0, 0.0], float("inf"), "validation batch 7: loss with all branches is inf; the probe has diverged"),
    ],
)
def test_what_is_not_finite_is_named(values, whole, message):
    with pytest.raises(UserError, match=message):
        perturbation._check_finite(7, {"a": None, "b": None}, values, whole)


def test_a_diverged_probe_is_not_measured(model_folder, warm, corpus_files, tmp_path):
    """The same through the whole command: one clear line instead of a dump."""
    folder = tmp_path / "warmup"
    shutil.copytree(warm, folder)
    state = load_file(folder / "probe.safetensors")
    state["model.layers.1.mlp.up_proj.B"].fill_(float("inf"))
    save_file(state, folder / "probe.safetensors")
    with pytest.raises(UserError, match="validation batch 0: loss with all branches is nan"):
        perturbation.run(PERTURBATION, model_folder, folder, corpus_files[1], 0, tmp_path / "p.parquet", tmp_path / "state")
    assert not (tmp_path / "p.parquet").exists()


def test_output_energy_is_that_of_the_branch_on_real_tokens(model_folder, warm, corpus_files, tmp_path):
    outputs.run(OUTPUTS, model_folder, warm, corpus_files[0], tmp_path / "o.parquet", tmp_path / "state")
    table, about = measurements.read(tmp_path / "o.parquet")
    assert about["kind"] == "outputs"
    model, branches = warmup.restore(model_folder, warm, "float32")
    rows = outputs.sample(corpus_files[0], OUTPUTS)
    words = load.tokenizer(model_folder)
    for t in range(2):
        encoded = [batches.encode(words, row["messages"], 64) for row in rows[3 * t : 3 * t + 3]]
        one, expected = batches.collate(encoded, words.pad_token_id), {}
        keep = one["attention_mask"].bool()

        def hook(branch, inputs, output, keep=keep, into=expected):
            difference = (output - branch.base(inputs[0]))[keep].double()
            into[branch.candidate.module] = difference.pow(2).sum().item()

        handles = [branch.register_forward_hook(hook) for branch in branches.values()]
        with torch.no_grad():
            nll(model.eval(), one)
        for handle in handles:
            handle.remove()
        found = {r["module"]: r["value"] for r in table.to_pylist() if r["batch"] == t}
        assert found == pytest.approx(expected, rel=1e-4)


def test_more_sampled_batches_keep_the_first(corpus_files):
    few, many = (outputs.sample(corpus_files[0], OUTPUTS | {"batches": n}) for n in (2, 5))
    assert many[: len(few)] == few and len(many) == 15
    with pytest.raises(UserError, match=r"train\.parquet: 64 rows; probes\.\*\.lora_drop\.batches \* batch_size needs 300"):
        outputs.sample(corpus_files[0], OUTPUTS | {"batches": 100})


@pytest.fixture(scope="module")
def full(model_folder, corpus_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    settings = {"warmup": TRAINING, "full": {"learning_rate": 1e-3, "weights": "all"}}
    full_warmup.run(settings, model_folder, corpus_files[0], folder / "warm", folder / "state")
    return folder / "warm"


def test_full_sensitivity_is_mean_w_times_gradient(model_folder, full, corpus_files, tmp_path):
    full_sensitivity.run(FULL, model_folder, full, corpus_files[1], 0, tmp_path / "f.parquet", tmp_path / "state")
    table, about = measurements.read(tmp_path / "f.parquet")
    assert about["kind"] == "full-sensitivity"
    model = load.model(full).eval()
    nll(model, batch(model_folder, corpus_files[1])).backward()
    for row in table.to_pylist()[:14]:
        parts = [(p * p.grad).abs().flatten() for p in model.get_submodule(row["module"]).parameters()]  # bias included
        assert row["value"] == pytest.approx(torch.cat(parts).double().mean().item(), rel=1e-4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_full_warmup_trains_what_it_is_told(model_folder, full, corpus_files, tmp_path):
    before = load.model(model_folder).state_dict()
    after = load.model(full).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    settings = {"warmup": TRAINING, "full": {"learning_rate": 1e-3, "weights": "candidates"}}
    full_warmup.run(settings, model_folder, corpus_files[0], tmp_path / "warm", tmp_path / "state")
    after = load.model(tmp_path / "warm").state_dict()
    names = {c.module for c in candidates.find(load.model(model_folder))}
    for name in before:
        assert torch.equal(before[name], after[name]) == (name.rpartition(".")[0] not in names)


def test_full_warmup_resumes_exactly(model_folder, full, corpus_files, tmp_path, monkeypatch):
    real, calls = loop.backward, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(full_warmup.loop, "backward", dies)
    settings = {"warmup": TRAINING, "full": {"learning_rate": 1e-3, "weights": "all"}}
    arguments = settings, model_folder, corpus_files[0], tmp_path / "warm", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        full_warmup.run(*arguments)
    full_warmup.run(*arguments)
    assert len(calls) == 3 + 2
    one, other = (load_file(folder / "model.safetensors") for folder in (full, tmp_path / "warm"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_gradient_does_not_depend_on_the_device_batch(model_folder, corpus_files):
    words = load.tokenizer(model_folder)
    rows = [batches.encode(words, row["messages"], 64) for row in corpus.read(corpus_files[0])[:5]]
    found = []
    for size in (1, 2, 5):
        model = load.model(model_folder)
        value = loop.backward(model, rows, words.pad_token_id, {"device_batch_size": size})
        found.append((value, {name: p.grad.clone() for name, p in model.named_parameters()}))
    for value, gradients in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-6)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, found[0][1][name], rtol=1e-3, atol=1e-6)
