"""The AutoLoRA probe: its alternation against steps written by hand, and what it leaves."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import history, importance, modules
from hybrid_lora.modeling import batches, load
from hybrid_lora.probe import autolora, loop
from hybrid_lora.probe.__main__ import main

ENTRY = {
    "weights": "module",
    "learning_rate": 0.01,
    "alpha_learning_rate": 0.02,
    "alpha_betas": [0.5, 0.999],
    "validation_share": 0.3,
}
TRAINING = {
    "steps": 6,
    "batch_size": 4,
    "device_batch_size": 3,
    "schedule": "linear",
    "max_length": 64,
    "save_every": 2,
    "gradient_checkpointing": False,
    "seed": 0,
    "dtype": "float32",
}
SETTINGS = {"rank": 3, "warmup": TRAINING, "autolora": ENTRY}


def settings(weights="module", training=(), **entry):
    return SETTINGS | {"warmup": TRAINING | dict(training), "autolora": ENTRY | {"weights": weights} | entry}


def run(chosen, model_folder, corpus_files, folder, monkeypatch):
    """The branches at the end of a run, the parts of the rows, and the rows of every batch in turn."""
    kept = {"batches": [], "parts": []}
    attach, encode, backward = autolora.attach, loop.encode, loop.backward
    monkeypatch.setattr(autolora, "attach", lambda *a: kept.setdefault("branches", attach(*a)))
    monkeypatch.setattr(loop, "encode", lambda *a: kept["parts"].append(encode(*a)) or kept["parts"][-1])
    monkeypatch.setattr(loop, "backward", lambda m, rows, *a: (kept["batches"].append(rows), backward(m, rows, *a))[1])
    autolora.run(chosen, model_folder, corpus_files[0], folder / "autolora", folder / "state")
    return kept["branches"], kept["parts"], kept["batches"]


class Adam:
    """Kingma and Ba's Algorithm 1, written out; without weight decay AdamW is the same."""

    def __init__(self, parameters, rate, betas):
        self.parameters, self.rate, self.betas, self.t = parameters, rate, betas, 0
        self.m, self.v = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]

    def step(self, gradients, factor):
        self.t += 1
        one, two = self.betas
        for i, g in enumerate(gradients):
            self.m[i] = one * self.m[i] + (1 - one) * g
            self.v[i] = two * self.v[i] + (1 - two) * g**2
            m, v = self.m[i] / (1 - one**self.t), self.v[i] / (1 - two**self.t)
            self.parameters[i].data -= factor * self.rate * m / (v.sqrt() + 1e-8)


@pytest.mark.parametrize("weights", ["module", "rank"])
def test_steps_equal_steps_by_hand(model_folder, corpus_files, tmp_path, monkeypatch, weights):
    """A, B move on training rows, then the weights on held-out rows at the new A, B, each by its own Adam."""
    chosen = settings(weights, {"steps": 2})
    found, parts, rows = run(chosen, model_folder, corpus_files, tmp_path, monkeypatch)
    monkeypatch.undo()
    assert [len(part) for part in parts] == [45, 19]
    ids = [{id(row) for row in part.encoded.values()} for part in parts]
    batch_ids = [{id(row) for row in batch} for batch in rows]
    sizes = [len(batch) for batch in rows]
    assert sizes == [4, 4, 4, 4] and not ids[0] & ids[1]
    assert batch_ids[0] | batch_ids[2] <= ids[0] and batch_ids[1] | batch_ids[3] <= ids[1]

    model, pad_id = load.model(model_folder), load.tokenizer(model_folder).pad_token_id
    branches = autolora.attach(model, 3, weights, 0)
    matrices = [p for branch in branches.values() for p in (branch.A, branch.B)]
    learned = [autolora.weight_of(branch, weights) for branch in branches.values()]
    inner, outer = Adam(matrices, 0.01, (0.9, 0.999)), Adam(learned, 0.02, (0.5, 0.999))
    for step in range(2):
        for optimizer, batch in ((inner, rows[2 * step]), (outer, rows[2 * step + 1])):
            value = model(**batches.collate(batch, pad_id)).loss
            optimizer.step(torch.autograd.grad(value, optimizer.parameters), 1 - step / 2)
    for name, branch in branches.items():
        for part in ("A", "B", "e", "alpha"):
            # Adam divides by the gradient's size, so where it is next to 0 rounding shows; no rate is as small as 1e-3.
            torch.testing.assert_close(getattr(found[name], part), getattr(branch, part), rtol=0, atol=2e-4)
    assert all((p != (1.0 if weights == "module" else 0.0)).all() for p in learned)


def test_training_rows_alone_do_not_move_the_weights(model_folder, corpus_files, tmp_path, monkeypatch):
    """With a rate of nearly 0 on held-out rows alpha stays at 1, while A and B train as before."""
    branches, *_ = run(settings(alpha_learning_rate=1e-30), model_folder, corpus_files, tmp_path, monkeypatch)
    assert all(branch.alpha.item() == 1.0 and branch.B.any() for branch in branches.values())


@pytest.mark.parametrize("weights, frozen", [("module", "e"), ("rank", "alpha")])
def test_what_a_run_leaves(model_folder, corpus_files, tmp_path, monkeypatch, weights, frozen):
    branches, *_ = run(settings(weights), model_folder, corpus_files, tmp_path, monkeypatch)
    rows, about = importance.read(tmp_path / "autolora/importance.parquet")
    expected = modules.read(model_folder / "modules.json")
    assert [(r["module"], r["layer"], r["type"]) for r in rows] == [
        (m["module"], m["layer"], m["type"]) for m in expected["modules"]
    ]
    assert about == {"model": expected["model"], "criterion": "autolora"}
    assert all((getattr(branch, frozen) == 1).all() for branch in branches.values())
    for row, branch in zip(rows, branches.values(), strict=True):
        if weights == "module":
            assert row["value"] == row["importance"] == abs(branch.alpha.item()) != 1
        else:
            e_R = branch.e.detach()
            assert e_R.sum().item() == pytest.approx(1)
            assert row["value"] == int((e_R > 1 / 3).sum()) and 1 / 3 < row["importance"] < 1
            assert row["importance"] == pytest.approx(e_R[e_R > 1 / 3].sum().item())
    records = history.read(tmp_path / "autolora/history.parquet").to_pylist()
    assert [r["step"] for r in records] == list(range(1, 7))
    assert records[-1]["loss"] < records[0]["loss"] and records[-1]["validation_loss"] < records[0]["validation_loss"]
    assert read_json(tmp_path / "autolora/manifest.json")["final_loss"] == records[-1]["loss"]


def test_base_is_frozen(model_folder, corpus_files, tmp_path, monkeypatch):
    kept, real = [], load.model
    monkeypatch.setattr(load, "model", lambda *a: kept.append(real(*a)) or kept[-1])
    autolora.run(SETTINGS, model_folder, corpus_files[0], tmp_path / "autolora", tmp_path / "state")
    after = {name.replace(".base.", "."): value for name, value in kept[0].state_dict().items()}
    for name, value in real(model_folder).state_dict().items():
        assert torch.equal(after[name], value)


@pytest.mark.parametrize("weights", ["module", "rank"])
def test_resumes_exactly(model_folder, corpus_files, tmp_path, monkeypatch, weights):
    """Killed between the two levels of step 4, started again from step 2: the same to the last bit."""
    whole, *_ = run(settings(weights), model_folder, corpus_files, tmp_path / "whole", monkeypatch)
    monkeypatch.undo()
    real, calls = loop.backward, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "backward", dies)
    arguments = settings(weights), model_folder, corpus_files[0], tmp_path / "part/autolora", tmp_path / "part/state"
    with pytest.raises(KeyboardInterrupt):
        autolora.run(*arguments)
    assert not (tmp_path / "part/autolora").exists()
    again, *_ = run(settings(weights), model_folder, corpus_files, tmp_path / "part", monkeypatch)
    assert len(calls) == 8 + 2 * 4
    for name, branch in whole.items():
        assert all(torch.equal(getattr(branch, p), getattr(again[name], p)) for p in ("A", "B", "e", "alpha"))
    for name in ("importance", "history"):
        one, other = (pq.read_table(tmp_path / f / f"autolora/{name}.parquet").to_pylist() for f in ("whole", "part"))
        assert [row | {"elapsed_s": None} for row in one] == [row | {"elapsed_s": None} for row in other]
    assert not (tmp_path / "part/state").exists()


def test_held_out_order_is_of_the_epoch(model_folder, corpus_files, tmp_path, monkeypatch):
    """Four batches of the 19 held-out rows an epoch, no row twice in one, and another order in the next."""
    _, parts, rows = run(settings(training={"steps": 8}), model_folder, corpus_files, tmp_path, monkeypatch)
    place = {id(row): i for i, row in parts[1].encoded.items()}
    order = [place[id(row)] for batch in rows[1::2] for row in batch]
    assert len(set(order[:16])) == len(set(order[16:])) == 16 and order[:16] != order[16:]


@pytest.mark.parametrize(
    "share, batch, message",
    [
        (0.05, 4, r"train\.parquet: .*validation_share 0\.05 leaves 61 rows to train on and 3 held out, .*batch_size is 4"),
        (0.9, 16, r"train\.parquet: .*validation_share 0\.9 leaves 6 rows to train on and 58 held out, .*batch_size is 16"),
    ],
)
def test_parts_smaller_than_a_batch(model_folder, corpus_files, tmp_path, share, batch, message):
    chosen = settings(training={"batch_size": batch}, validation_share=share)
    with pytest.raises(UserError, match=message):
        autolora.run(chosen, model_folder, corpus_files[0], tmp_path / "out", tmp_path / "state")
    assert not (tmp_path / "out").exists()


def test_default_precision_by_the_command(model_folder, corpus_files, tmp_path):
    """bfloat16 base, recomputed activations."""
    chosen = settings("rank", {"dtype": "bfloat16", "gradient_checkpointing": True})
    paths = ["--model", str(model_folder), "--train", str(corpus_files[0]), "--out", str(tmp_path / "out")]
    assert main(["autolora", *paths, "--state", str(tmp_path / "state"), "--settings", json.dumps(chosen)]) == 0
    rows, _ = importance.read(tmp_path / "out/importance.parquet")
    assert all(1 <= row["value"] <= 3 and row["importance"] > 1 / 3 for row in rows)
    records = history.read(tmp_path / "out/history.parquet").to_pylist()
    assert records[-1]["loss"] < records[0]["loss"]


def test_unknown_kind_of_weights(model_folder, corpus_files, tmp_path):
    with pytest.raises(UserError, match=r"autolora\.weights is 'layer', must be module or rank"):
        autolora.run(settings("layer"), model_folder, corpus_files[0], tmp_path / "out", tmp_path / "state")
