"""Algorithm 1 against an independent definition, and what a dump may depend on."""

import copy
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json
from hybrid_lora.contracts import corpus, sensitivity
from hybrid_lora.model import publish
from hybrid_lora.modeling import batches, load, svd_lora
from hybrid_lora.modeling.loss import next_token_loss
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import partition, warmup
from hybrid_lora.probe import sensitivity as stage

INIT = {"method": "lora", "e": 1.0, "alpha": 1.0}
WARMUP = {
    "rank": 4,
    "init": INIT,
    "warmup": {
        "objective": "nll",
        "steps": 6,
        "batch_size": 4,
        "device_batch_size": 4,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "max_length": 64,
        "save_every": 2,
        "gradient_checkpointing": False,
        "seed": 0,
        "dtype": "float32",
    },
}
SENSITIVITY = {
    "batch_size": 3,
    "batches_per_chunk": 2,
    "probability": 0.5,
    "max_length": 64,
    "gradient_checkpointing": False,
    "seed": 0,
    "dtype": "float32",
}


def measured(model, branches, batch, bucket):
    with measuring(model, branches) as halves:
        return stage.launch(model, batch, bucket, halves)()


def two_passes(model, branches, batch, bucket):
    """Algorithm 1 line by line: two masked passes one after the other, plain autograd through SVDLoRALinear."""
    losses = []
    for active in (set(branches) - bucket, bucket):
        svd_lora.set_active(branches, active)
        losses.append(next_token_loss(model, batch)[0])
        losses[-1].backward()
    svd_lora.set_active(branches, set(branches))
    return {name: branch.e.grad.clone() for name, branch in branches.items()}, *(value.item() for value in losses)


def dump(settings, model_folder, warm, val, chunk, out):
    stage.run(settings, model_folder, warm, val, chunk, out, out.with_suffix(".state"))
    return sensitivity.read(out)


@pytest.fixture(scope="module")
def warm(model_folder, corpus_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    warmup.run(WARMUP, model_folder, corpus_files[0], folder / "warmup", folder / "state")
    return folder / "warmup"


@pytest.fixture
def probe64(model_folder, warm):
    """The warmed-up probe in float64 with one batch."""
    model, branches = warmup.restore(model_folder, warm, "float32")
    words = load.tokenizer(model_folder)
    rows = [batches.encode(words, row["messages"], 64) for row in corpus.read(warm.parents[0] / "val.parquet")[:3]]
    for module in model.modules():  # transformers' norm rounds to float32 inside, which would drown finite differences
        if type(module).__name__ == "Qwen2RMSNorm":
            module.forward = lambda x, m=module: m.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon)
    return model.double().eval(), branches, batches.collate(rows, words.pad_token_id)


@pytest.fixture(autouse=True)
def _val(warm, corpus_files):
    link = warm.parents[0] / "val.parquet"
    if not link.exists():
        link.symlink_to(corpus_files[1])


def reference_loss(model, branches, batch, disabled, e):
    """Eq. 7 and the mean NLL, written out by hand with hooks on the frozen linears: shares no code with the package."""
    handles = []
    for name, branch in branches.items():

        def hook(module, inputs, output, name=name, branch=branch):
            if name in disabled:
                return output
            return output + branch.alpha * (inputs[0] @ branch.A @ torch.diag(e[name]) @ branch.B)

        branch.active = False
        handles.append(branch.base.register_forward_hook(hook))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    for handle in handles:
        handle.remove()
    logp = torch.log_softmax(logits[:, :-1], dim=-1)
    total, count = 0.0, 0
    for b, t in zip(*torch.where(batch["labels"][:, 1:] != -100)):
        total, count = total - logp[b, t, batch["labels"][b, t + 1]], count + 1
    return total / count


def test_gradients_equal_brute_force_per_module(probe64):
    """(a) float64: each module alone, with the loss of the pass in which it is active."""
    model, branches, batch = probe64
    bucket = partition.bucket_a(list(branches), 0, 0, 0.5)
    assert 0 < len(bucket) < len(branches)
    grads, loss_a, loss_b, tokens = measured(model, branches, batch, bucket)
    assert tokens == int((batch["labels"][:, 1:] != -100).sum())
    for name in branches:
        e = {n: b.e.detach().clone() for n, b in branches.items()}
        e[name].requires_grad_(True)
        disabled = bucket if name not in bucket else set(branches) - bucket
        value = reference_loss(model, branches, batch, disabled, e)
        value.backward()
        assert value.item() == pytest.approx(loss_a if name not in bucket else loss_b, rel=1e-12)
        np.testing.assert_allclose(grads[name].double(), e[name].grad, rtol=2e-6, atol=1e-9)


def test_gradients_equal_finite_differences(probe64):
    """(b) central differences of L_A + L_B in single components of e."""
    model, branches, batch = probe64
    bucket = partition.bucket_a(list(branches), 0, 0, 0.5)
    grads, *_ = measured(model, branches, batch, bucket)
    rest = set(branches) - bucket
    step = 1e-5
    for name in list(branches)[::3]:
        e = {n: b.e.detach().clone() for n, b in branches.items()}
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(e)
            moved[name][1] += sign * step
            with torch.no_grad():
                values.append(sum(reference_loss(model, branches, batch, d, moved).item() for d in (bucket, rest)))
        assert grads[name][1].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-9)


def test_gradient_comes_from_the_active_pass_alone(probe64):
    """(c) the gradient of each single pass is zero for the modules it disables and whole for the others."""
    model, branches, batch = probe64
    bucket = partition.bucket_a(list(branches), 0, 0, 0.5)
    both, *_ = measured(model, branches, batch, bucket)
    for active in (set(branches) - bucket, bucket):
        for branch in branches.values():
            branch.e.grad = None
        svd_lora.set_active(branches, active)
        next_token_loss(model, batch)[0].backward()
        for name, branch in branches.items():
            if name in active:
                torch.testing.assert_close(branch.e.grad.float(), both[name].float())
            else:
                assert branch.e.grad is None or not branch.e.grad.any()


def test_dump_schema_and_active_pass(model_folder, warm, corpus_files, tmp_path):
    table, about = dump(SENSITIVITY, model_folder, warm, corpus_files[1], 1, tmp_path / "chunk.parquet")
    assert pc.unique(table["batch"]).to_pylist() == [2, 3]
    assert table.num_rows == 2 * 14 * 4
    names = list(dict.fromkeys(table["module"].to_pylist()))
    for row in table.to_pylist():
        in_a = row["module"] in partition.bucket_a(names, 0, row["batch"], 0.5)
        assert row["active_pass"] == ("B" if in_a else "A")
    assert about["settings"] == SENSITIVITY


def test_batch_is_the_same_in_any_chunking(model_folder, warm, corpus_files, tmp_path):
    whole = SENSITIVITY | {"batches_per_chunk": 4}
    one, _ = dump(whole, model_folder, warm, corpus_files[1], 0, tmp_path / "whole.parquet")
    part, _ = dump(SENSITIVITY, model_folder, warm, corpus_files[1], 1, tmp_path / "part.parquet")
    assert one.filter(pc.greater_equal(one["batch"], 2)).equals(part)


def test_killed_chunk_goes_on_with_the_same_dump(model_folder, warm, corpus_files, tmp_path, monkeypatch):
    """Killed in its third batch: the first is kept, the rest is computed, and nothing shows in the dump."""
    settings = SENSITIVITY | {"batches_per_chunk": 4}
    whole, _ = dump(settings, model_folder, warm, corpus_files[1], 0, tmp_path / "whole.parquet")
    real, calls = stage.launch, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stage, "launch", dies)
    with pytest.raises(KeyboardInterrupt):
        dump(settings, model_folder, warm, corpus_files[1], 0, tmp_path / "killed.parquet")
    assert not (tmp_path / "killed.parquet").exists()
    resumed, _ = dump(settings, model_folder, warm, corpus_files[1], 0, tmp_path / "killed.parquet")
    assert len(calls) == 3 + 3  # the second was started, but not read when the third died
    assert resumed.equals(whole)
    assert not (tmp_path / "killed.state").exists()


@pytest.mark.parametrize("checkpointing", [True, False])
def test_measured_like_the_plain_branch(model_folder, warm, corpus_files, checkpointing):
    """The frozen, in-place computation has the loss and gradients of plain autograd through Eq. 7, activations kept or not."""
    model, branches = warmup.restore(model_folder, warm, "float32")
    model.eval()
    words = load.tokenizer(model_folder)
    encoded = [batches.encode(words, row["messages"], 64) for row in corpus.read(corpus_files[1])[:3]]
    batch, bucket = batches.collate(encoded, words.pad_token_id), partition.bucket_a(list(branches), 0, 0, 0.5)
    plain = two_passes(model, branches, batch, bucket)
    load.set_checkpointing(model, checkpointing)
    found = measured(model, branches, batch, bucket)
    assert found[1:3] == pytest.approx(plain[1:], rel=1e-6)
    for name in branches:
        torch.testing.assert_close(found[0][name], plain[0][name], rtol=1e-5, atol=1e-9)
    assert all("forward" not in vars(branch) for branch in branches.values())


def test_too_few_validation_rows(model_folder, warm, corpus_files, tmp_path):
    with pytest.raises(UserError, match=r"24 rows; batches up to 12 of 3 need 36"):
        dump(SENSITIVITY, model_folder, warm, corpus_files[1], 5, tmp_path / "x.parquet")


def test_not_finite_gradient_names_module_and_batch(model_folder, warm, corpus_files, tmp_path, monkeypatch):
    real = stage.launch

    def broken(*args):
        grads, *rest = real(*args)()
        grads["model.layers.1.mlp.up_proj"][2] = float("nan")
        return lambda: (grads, *rest)

    monkeypatch.setattr(stage, "launch", broken)
    with pytest.raises(UserError, match=r"validation batch 0: .*model\.layers\.1\.mlp\.up_proj is not finite"):
        dump(SENSITIVITY, model_folder, warm, corpus_files[1], 0, tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_warmup_resumes_exactly(model_folder, corpus_files, warm, tmp_path, monkeypatch):
    """Killed after step 4, started again: the same weights to the last bit."""
    real = warmup.loop.backward
    calls = []

    def dies(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(warmup.loop, "backward", dies)
    with pytest.raises(KeyboardInterrupt):
        warmup.run(WARMUP, model_folder, corpus_files[0], tmp_path / "warmup", tmp_path / "state")
    assert not (tmp_path / "warmup").exists()
    warmup.run(WARMUP, model_folder, corpus_files[0], tmp_path / "warmup", tmp_path / "state")
    assert len(calls) == 5 + 2
    assert (tmp_path / "warmup/probe.safetensors").read_bytes() == (warm / "probe.safetensors").read_bytes()
    assert not (tmp_path / "state").exists()


def test_warmup_with_dropout_resumes_exactly(model_folder, corpus_files, tmp_path, monkeypatch):
    """Dropout draws from torch's own generator, whose state no file keeps."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"attention_dropout": 0.5})
    real, calls = warmup.loop.backward, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(warmup.loop, "backward", dies)
    warmup.run(WARMUP, folder, corpus_files[0], tmp_path / "whole", tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        warmup.run(WARMUP, folder, corpus_files[0], tmp_path / "again", tmp_path / "b")
    torch.rand(7)
    warmup.run(WARMUP, folder, corpus_files[0], tmp_path / "again", tmp_path / "b")
    assert len(calls) == 6 + 5 + 2
    assert (tmp_path / "again/probe.safetensors").read_bytes() == (tmp_path / "whole/probe.safetensors").read_bytes()


def test_a_module_that_is_not_used_is_named(model_folder, warm, corpus_files):
    """As in layers that take keys and values from another one."""
    model, branches = warmup.restore(model_folder, warm, "float32")
    attention = model.model.layers[1].self_attn
    with measuring(model, branches) as halves:
        real = attention.k_proj.forward
        attention.k_proj.forward = lambda x: real(x).detach()
        batch = batches.collate([(list(range(3, 40)), 5)], 0)
        with pytest.raises(UserError, match=r"module model\.layers\.1\.self_attn\.k_proj has no part in the loss"):
            stage.launch(model, batch, set(list(branches)[::2]), halves)()


def test_warmup_of_another_model(model_folder, warm, corpus_files, tmp_path):
    """Of the same architecture and name, so that every tensor fits."""
    other = tmp_path / "model"
    shutil.copytree(model_folder, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    publish.describe(other, "tiny", None, "model.pretrain", {}, {})
    with pytest.raises(
        UserError, match=r"warmup: is of model tiny with another weights_sha256 than .*model; train the probe anew"
    ):
        dump(SENSITIVITY, other, warm, corpus_files[1], 0, tmp_path / "x.parquet")
    about = read_json(warm / "manifest.json")
    shutil.copytree(warm, tmp_path / "old")
    write_json(tmp_path / "old/manifest.json", {key: value for key, value in about.items() if key != "model"})
    dump(SENSITIVITY, other, tmp_path / "old", corpus_files[1], 0, tmp_path / "x.parquet")  # said nothing: taken


def test_partition_is_bernoulli_and_depends_on_seed_and_batch():
    names = [f"m{i}" for i in range(2000)]
    a = partition.bucket_a(names, 0, 0, 0.5)
    assert 900 < len(a) < 1100
    assert a == partition.bucket_a(names, 0, 0, 0.5)
    assert a != partition.bucket_a(names, 0, 1, 0.5)
    assert a != partition.bucket_a(names, 1, 0, 0.5)
    assert len(partition.bucket_a(names, 0, 0, 0.2)) < 500
