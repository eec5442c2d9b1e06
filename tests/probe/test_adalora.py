"""The AdaLoRA probe: PEFT's training on the candidates, with its own loss and nothing else, and what it leaves."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from peft.tuners.adalora import AdaLoraLayer

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import corpus, history, importance, modules
from hybrid_lora.modeling import batches, candidates, load
from hybrid_lora.probe import adalora, loop
from hybrid_lora.probe.__main__ import main

ENTRY = {
    "initial_rank": 6,
    "target_rank": 4,
    "initial_share": 0.25,
    "final_share": 0.5,
    "interval": 2,
    "beta1": 0.85,
    "beta2": 0.85,
    "orthogonality": 0.5,
}
TRAINING = {
    "steps": 8,
    "batch_size": 4,
    "device_batch_size": 4,
    "learning_rate": 0.01,
    "schedule": "linear",
    "weight_decay": 0.0,
    "max_length": 64,
    "save_every": 3,
    "gradient_checkpointing": False,
    "seed": 0,
    "dtype": "float32",
}
SETTINGS = {"warmup": TRAINING, "adalora": ENTRY}


@pytest.fixture(scope="module")
def done(model_folder, corpus_files, tmp_path_factory):
    """(folder of a whole run, the adapted model at its end, its Pruning)"""
    out, kept = tmp_path_factory.mktemp("adalora"), []
    real = adalora.Pruning

    def keep(adapted):
        kept.extend([adapted, real(adapted)])
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adalora, "Pruning", keep)
        adalora.run(SETTINGS, model_folder, corpus_files[0], out / "adalora", out / "state")
    return out / "adalora", *kept


def attached(model_folder, dtype="float32", seed=0, entry=ENTRY):
    model = load.model(model_folder, dtype)
    adapted = adalora.attach(model, candidates.find(model), entry, adalora.schedule(entry, 8), seed)
    return model, adapted


def a_batch(model_folder, corpus_files, count):
    words = load.tokenizer(model_folder)
    rows = [batches.encode(words, row["messages"], 64) for row in corpus.read(corpus_files[0])[:count]]
    return rows, words.pad_token_id


def test_schedule():
    found = adalora.schedule(ENTRY | {"initial_share": 0.1, "final_share": 0.5, "interval": 10}, 500)
    assert found == {"tinit": 50, "tfinal": 250, "deltaT": 10, "total_step": 500}


def test_wraps_exactly_the_candidates(model_folder):
    model, adapted = attached(model_folder, "bfloat16")
    wrapped = {name for name, module in model.named_modules() if isinstance(module, AdaLoraLayer)}
    assert wrapped == {c["module"] for c in modules.read(model_folder / "modules.json")["modules"]}
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 3 * 14 and all(".lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_update_is_added_as_it_is(model_folder):
    """The scale is plain: y = x W + b + x A^T diag(E) B^T."""
    model, _ = attached(model_folder)
    layer, x = model.get_submodule("model.layers.1.mlp.up_proj"), torch.randn(3, 32)
    a_RI, e_R1, b_OR = (part["default"] for part in (layer.lora_A, layer.lora_E, layer.lora_B))
    assert not e_R1.any()
    e_R1.data.normal_()
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ a_RI.T @ torch.diag(e_R1[:, 0]) @ b_OR.T)


def test_draw_depends_on_the_seed_alone(model_folder):
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    draws = []
    for seed in (0, 0, 1):
        model, _ = attached(model_folder, seed=seed)
        draws.append(model.get_submodule("model.layers.0.mlp.down_proj").lora_A["default"])
        assert torch.equal(torch.random.get_rng_state(), expected)
        torch.manual_seed(5)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def penalties(model):
    """|A A^T - I| and |B^T B - I| of every module."""
    found = [(n, p) for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]
    return [torch.linalg.matrix_norm((p @ p.T if "lora_A" in n else p.T @ p) - torch.eye(6)) for n, p in found]


@pytest.mark.parametrize("size", [5, 2])
def test_gradient_is_that_of_pefts_own_loss(model_folder, corpus_files, size):
    """In parts or whole, the loss and every gradient equal those of PEFT on transformers' forward pass: one penalty in all."""
    rows, pad_id = a_batch(model_folder, corpus_files, 5)
    ours, theirs = attached(model_folder), attached(model_folder)
    for model, _ in (ours, theirs):
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_E" in name:  # with E = 0 the text would give A and B no gradient
                parameter.data.normal_()
    value = loop.backward(ours[1], rows, pad_id, {"device_batch_size": size}, lambda m, b: (m(**b).loss, m(**b).tokens))
    del theirs[0].forward
    whole = theirs[1](**batches.collate(rows, pad_id))
    whole.loss.backward()
    assert value == pytest.approx(whole.loss.item(), rel=1e-6)
    plain = torch.nn.functional.cross_entropy(
        whole.logits[:, :-1].flatten(0, 1), batches.collate(rows, pad_id)["labels"][:, 1:].flatten()
    )
    assert value == pytest.approx((plain + 0.5 * sum(penalties(theirs[0])) / 28).item(), rel=1e-6)
    expected = {n: p.grad for n, p in theirs[0].named_parameters() if p.requires_grad}
    for name, parameter in ours[0].named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_what_a_run_leaves(done, model_folder):
    folder, adapted, pruning = done
    rows, about = importance.read(folder / "importance.parquet")
    expected = modules.read(model_folder / "modules.json")
    assert [(r["module"], r["layer"], r["type"]) for r in rows] == [
        (m["module"], m["layer"], m["type"]) for m in expected["modules"]
    ]
    assert about == {"model": expected["model"], "criterion": "adalora"}
    ranks = [row["value"] for row in rows]
    assert 0 < sum(ranks) <= 14 * 4 and min(ranks) < 4 and max(ranks) <= 6
    for row in rows:
        e_R1 = adapted.base_model.model.get_submodule(row["module"]).lora_E["default"]
        assert row["value"] == int((e_R1 != 0).sum())
        assert row["importance"] == pruning.scores[row["module"]].mean().item() > 0
    kept = torch.cat([torch.tensor(pruning.config.rank_pattern[f"{row['module']}.lora_E.default"]) for row in rows])
    scores = torch.cat([pruning.scores[row["module"]] for row in rows])
    assert scores[kept].min() > scores[~kept].max()
    records = history.read(folder / "history.parquet").to_pylist()
    assert [r["step"] for r in records] == list(range(1, 9))
    assert [r["rank"] for r in records][:3] == [6, 6, 6] and records[-1]["rank"] == sum(ranks) / 14
    assert records[-1]["loss"] < records[0]["loss"] and records[-1]["orthogonality"] < records[0]["orthogonality"]
    assert read_json(folder / "manifest.json")["final_loss"] == records[-1]["loss"]


def test_loss_and_penalty_are_recorded_apart(done, model_folder, corpus_files):
    """At the first step, with E = 0: the plain model's loss on the first batch, and half the mean of |A A^T - I|, |B^T B - I|."""
    record = history.read(done[0] / "history.parquet").to_pylist()[0]
    rows, pad_id = a_batch(model_folder, corpus_files, 64)
    first = [rows[i] for i in loop.rows_of(0, TRAINING, 64)]
    assert record["loss"] == pytest.approx(load.model(model_folder)(**batches.collate(first, pad_id)).loss.item(), rel=1e-6)
    model, _ = attached(model_folder)
    norms = penalties(model)
    assert len(norms) == 28
    assert record["orthogonality"] == pytest.approx(0.5 * sum(norms).item() / 28, rel=1e-6)


def test_base_is_frozen(done, model_folder):
    before = load.model(model_folder, "float32").state_dict()
    after = {n.replace(".base_layer", ""): p for n, p in done[1].base_model.model.state_dict().items() if "lora_" not in n}
    for name, value in before.items():
        assert torch.equal(after[name], value)


@pytest.mark.parametrize("dies_at, again", [(3, 8), (5, 5), (8, 2)])
def test_resumes_exactly(done, model_folder, corpus_files, tmp_path, monkeypatch, dies_at, again):
    """Killed before any state, before and after the final pruning (step 4), started again: the same to the last bit."""
    real, calls = adalora.loss.next_token_loss, []

    def dies(model, batch):
        calls.append(1)
        if len(calls) == dies_at:
            raise KeyboardInterrupt
        return real(model, batch)

    monkeypatch.setattr(adalora.loss, "next_token_loss", dies)
    arguments = SETTINGS, model_folder, corpus_files[0], tmp_path / "adalora", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        adalora.run(*arguments)
    assert not (tmp_path / "adalora").exists()
    adalora.run(*arguments)
    assert len(calls) == dies_at + again
    for name in ("importance", "history"):
        one, other = (pq.read_table(folder / f"{name}.parquet").to_pylist() for folder in (done[0], tmp_path / "adalora"))
        assert [row | {"elapsed_s": None} for row in one] == [row | {"elapsed_s": None} for row in other]
    assert not (tmp_path / "state").exists()


def test_default_precision_by_the_command(model_folder, corpus_files, tmp_path):
    """bfloat16 base, recomputed activations, parts of a batch; PEFT's divisor of the scale is not trained."""
    chosen = SETTINGS | {"warmup": TRAINING | {"dtype": "bfloat16", "gradient_checkpointing": True, "device_batch_size": 2}}
    paths = ["--model", str(model_folder), "--train", str(corpus_files[0]), "--out", str(tmp_path / "out")]
    assert main(["adalora", *paths, "--state", str(tmp_path / "state"), "--settings", json.dumps(chosen)]) == 0
    rows, _ = importance.read(tmp_path / "out/importance.parquet")
    assert 0 < sum(row["value"] for row in rows) <= 14 * 4
    records = history.read(tmp_path / "out/history.parquet").to_pylist()
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"adalora": ENTRY | {"target_rank": 6}}, r"adalora\.initial_rank is 6, must be more than target_rank, 6"),
        ({"adalora": ENTRY | {"final_share": 0.8}}, r"steps is 8: .*final_share 0\.8 pruning would end at step 2"),
        ({"warmup": TRAINING | {"steps": 2}}, r"steps is 2: .* end at step 1; it must be after step 1"),
        ({"warmup": TRAINING | {"batch_size": 65}}, r"train\.parquet: 64 rows, probes\.\*\.warmup\.batch_size is 65"),
    ],
)
def test_bad_input_is_one_line(model_folder, corpus_files, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        adalora.run(SETTINGS | change, model_folder, corpus_files[0], tmp_path / "out", tmp_path / "state")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
