"""Every criterion that is no aggregation of sensitivities, on toys worked out by hand, and how ties are broken."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_json
from hybrid_lora.contracts import importance, measurements, scores
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.scores import aggregate, criteria

NAMES = [f"model.layers.{i // 2}.self_attn.{'qk'[i % 2]}_proj" for i in range(4)]
IDENTITY = {"id": "toy", "revision": None, "architecture_sha256": "0" * 64}
# module -> values of batches 0 and 1
VALUES = {NAMES[0]: (0.5, 0.1), NAMES[1]: (-0.2, -0.4), NAMES[2]: (0.0, 0.0), NAMES[3]: (0.3, 0.3)}
KINDS = {"perturbation": "perturbation", "lora-drop": "outputs", "hybrid-4": "full-sensitivity"}


@pytest.fixture
def modules(tmp_path):
    rows = [
        {"module": n, "layer": i // 2, "type": "qk"[i % 2], "params": 10, "in_features": 3, "out_features": 3}
        for i, n in enumerate(NAMES)
    ]
    modules_file.write(tmp_path / "modules.json", IDENTITY, 100, rows)
    return tmp_path / "modules.json"


def run(criterion, modules, dumps, out, **settings):
    settings = {"criterion": criterion, "model": "toy", "probe": "default", "batches": 2, "seed": 0} | settings
    aggregate.run(settings, modules, dumps, [], out)
    rows, about = scores.read(out)
    return [r["score"] for r in rows], [r["rank"] for r in rows], rows, about


def measured(path, kind, values=None):
    rows = [
        {"batch": t, "module": n, "layer": i // 2, "type": "qk"[i % 2], "value": v[t], "loss": 1.0, "tokens": 5}
        for t in range(2)
        for i, (n, v) in enumerate((values or VALUES).items())
    ]
    measurements.write(path, rows, {"kind": kind, "model": IDENTITY, "warmup_sha256": "w"})
    return path


def test_perturbation_is_the_signed_mean(modules, tmp_path):
    found, ranks, rows, about = run("perturbation", modules, [measured(tmp_path / "p", "perturbation")], tmp_path / "s")
    assert found == pytest.approx([0.3, -0.3, 0.0, 0.3])
    assert ranks == [3, 1, 2, 4]  # the harmful branch first; 0.3 ties: layer 0 before layer 1
    assert [r["sigma"] for r in rows] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    assert (about["direction"], about["batches"]) == ("ascending", 2)


def test_lora_drop_is_the_share_of_output_energy(modules, tmp_path):
    values = {NAMES[0]: (3.0, 1.0), NAMES[1]: (0.0, 1.0), NAMES[2]: (2.0, 2.0), NAMES[3]: (0.0, 0.0)}
    found, ranks, _, about = run("lora-drop", modules, [measured(tmp_path / "o", "outputs", values)], tmp_path / "s")
    assert found == pytest.approx([4 / 9, 1 / 9, 4 / 9, 0.0])
    assert ranks == [3, 2, 4, 1]
    assert about["direction"] == "ascending"
    silent = dict.fromkeys(NAMES, (0.0, 0.0))
    assert run("lora-drop", modules, [measured(tmp_path / "o", "outputs", silent)], tmp_path / "s")[0] == [0.0] * 4


def test_hybrid_4_gives_the_highest_to_full_fine_tuning(modules, tmp_path):
    values = {NAMES[0]: (2.0, 4.0), NAMES[1]: (5.0, 5.0), NAMES[2]: (1.0, 3.0), NAMES[3]: (10.0, 12.0)}
    found, ranks, _, about = run("hybrid-4", modules, [measured(tmp_path / "f", "full-sensitivity", values)], tmp_path / "s")
    assert found == pytest.approx([3.0, 0.0, 2.0, 11.0])  # mean * population deviation
    assert ranks == [2, 4, 3, 1]
    assert about["direction"] == "descending"


@pytest.mark.parametrize("criterion", KINDS)
def test_dump_of_another_kind(criterion, modules, tmp_path):
    other = next(kind for kind in KINDS.values() if kind != KINDS[criterion])
    with pytest.raises(UserError, match=f"holds {other}, {KINDS[criterion]} is needed here"):
        run(criterion, modules, [measured(tmp_path / "x", other)], tmp_path / "s")


def warmup(folder, alphas):
    folder.mkdir()
    save_file({f"{n}.alpha": np.array(a, np.float32) for n, a in alphas.items()}, folder / "probe.safetensors")
    write_json(folder / "manifest.json", {"outputs": {"probe.safetensors": "x"}})
    return folder / "manifest.json"


def test_alpha_is_its_magnitude(modules, tmp_path):
    path = warmup(tmp_path / "w", dict(zip(NAMES, (1.0, -1.5, 0.25, -0.5))))
    found, ranks, rows, _ = run("alpha", modules, [path], tmp_path / "s")
    assert found == [1.0, 1.5, 0.25, 0.5]
    assert ranks == [3, 4, 1, 2]
    assert rows[0]["mu"] is None and rows[0]["batches"] == 0


def test_alpha_of_another_model_or_not_finite(modules, tmp_path):
    with pytest.raises(UserError, match=r"module '.*layers.1.self_attn.k_proj' is not in both the warm-up and the model"):
        run("alpha", modules, [warmup(tmp_path / "a", dict.fromkeys(NAMES[:3], 1.0))], tmp_path / "s")
    with pytest.raises(UserError, match=f"value of module {NAMES[0]} is not finite"):
        run("alpha", modules, [warmup(tmp_path / "b", dict.fromkeys(NAMES, float("nan")))], tmp_path / "s")
    (tmp_path / "b/probe.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"probe\.safetensors: not a readable safetensors file"):
        run("alpha", modules, [tmp_path / "b/manifest.json"], tmp_path / "s")


def own_probe(folder, values, criterion, names=NAMES, model=IDENTITY):
    rows = [
        {"module": n, "layer": i // 2, "type": "qk"[i % 2], "value": v, "importance": w}
        for i, (n, (v, w)) in enumerate(zip(names, values))
    ]
    importance.write(folder / importance.NAME, rows, {"model": model, "criterion": criterion})
    write_json(folder / "manifest.json", {})
    return folder / "manifest.json"


@pytest.mark.parametrize("criterion", ["adalora", "autolora"])
def test_integer_ranks_tie_by_mean_importance_first(criterion, modules, tmp_path):
    path = own_probe(tmp_path, [(8, 0.4), (8, 0.1), (3, 0.9), (8, 0.4)], criterion)
    found, ranks, *_ = run(criterion, modules, [path], tmp_path / "s")
    assert found == [8, 8, 3, 8]
    assert ranks == [3, 2, 1, 4]  # 3 ranks first; of the 8s the least important; what still ties by layer, then type
    assert scores_file_importance(tmp_path / "s") == [0.4, 0.1, 0.9, 0.4]


def scores_file_importance(path):
    import pyarrow.parquet as pq

    return pq.read_table(path, partitioning=None)["importance"].to_pylist()


def test_own_probe_of_another_model_or_criterion(modules, tmp_path):
    values = [(8, 0.4)] * 4
    with pytest.raises(UserError, match="holds autolora, adalora is needed here"):
        run("adalora", modules, [own_probe(tmp_path, values, "autolora")], tmp_path / "s")
    with pytest.raises(UserError, match="computed on model other"):
        run("adalora", modules, [own_probe(tmp_path, values, "adalora", model=IDENTITY | {"id": "other"})], tmp_path / "s")
    with pytest.raises(UserError, match=r"k_proj' is not in both the file and the model"):
        run("adalora", modules, [own_probe(tmp_path, values[:3], "adalora", NAMES[:3])], tmp_path / "s")
    with pytest.raises(UserError, match=f"value of module {NAMES[1]} is not finite"):
        run("adalora", modules, [own_probe(tmp_path, [(1, 1), (float("nan"), 1), (1, 1), (1, 1)], "adalora")], tmp_path / "s")


def test_ranks_in_either_direction():
    values, importances = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1.0, 5.0, 0.0, 5.0])
    assert criteria.ranks(values, "ascending").tolist() == [3, 1, 4, 2]
    assert criteria.ranks(values, "ascending", importances).tolist() == [4, 1, 3, 2]
    assert criteria.ranks(values, "descending", importances).tolist() == [1, 3, 2, 4]


def test_config_and_scores_agree_on_what_a_criterion_reads():
    from hybrid_lora.config import probing

    assert {name: c.source for name, c in criteria.CRITERIA.items()} == probing.SOURCES
