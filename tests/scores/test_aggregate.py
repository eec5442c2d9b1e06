"""Eq. 12-15 on dumps worked out by hand, the guards, and bad input."""

import json

import numpy as np
import pyarrow as pa
import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_json
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts import scores, sensitivity
from hybrid_lora.scores import aggregate, criteria

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"]
TYPES = ["q", "k", "up"]
# |e * grad| over r = 2 components, batch by batch
E = [1.0, -2.0]
GRADS = {  # module -> batch -> components; s = (|1 * g0| + |-2 * g1|) / 2
    NAMES[0]: [[2.0, 1.0], [-4.0, 2.0]],  # s = 2, 4: mu 3, sigma 1
    NAMES[1]: [[6.0, 0.0], [0.0, -3.0]],  # s = 3, 3: mu 3, sigma 0
    NAMES[2]: [[0.0, 0.0], [0.0, 0.0]],  # s = 0, 0
}


IDENTITY = {"id": "toy", "revision": None, "architecture_sha256": "0" * 64}


def dump(path, batches=(0, 1), names=NAMES, warmup="w", change=None, model=IDENTITY, settings=None, rank=2):
    rows = [
        {
            "batch": t,
            "module": name,
            "layer": int(name.split(".")[2]),
            "type": TYPES[NAMES.index(name)] if name in NAMES else "q",
            "component": i,
            "active_pass": "A",
            "e": E[i % 2],
            "grad": change[t, name, i] if (t, name, i) in (change or {}) else GRADS[name][t][i] if name in GRADS else 0.0,
            "loss_a": 1.0,
            "loss_b": 1.0,
            "tokens": 5,
        }
        for t in batches
        for name in names
        for i in range(rank)
    ]
    about = {"warmup_sha256": warmup, "model": model, "settings": settings or {"seed": 0, "batches_per_chunk": len(batches)}}
    sensitivity.write(path, pa.Table.from_pylist(rows, schema=sensitivity.SCHEMA), about)
    return path


@pytest.fixture
def modules(tmp_path):
    listed = [
        {"module": n, "layer": int(n.split(".")[2]), "type": t, "params": 10 + i, "in_features": 3, "out_features": 3}
        for i, (n, t) in enumerate(zip(NAMES, TYPES))
    ]
    modules_file.write(tmp_path / "modules.json", IDENTITY, 100, listed)
    return tmp_path / "modules.json"


def run(criterion, modules, dumps, tmp_path, measured_on=(), **settings):
    settings = {"criterion": criterion, "model": "toy", "probe": "default", "batches": 2, "seed": 0} | settings
    aggregate.run(settings, modules, dumps, measured_on, tmp_path / "out.parquet")
    return scores.read(tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("criterion", "expected", "order"),
    [
        ("hybrid", [3.0, 0.0, 0.0], [3, 1, 2]),  # ties by layer, then type: k of layer 0 before up of layer 1
        ("hybrid-1", [3.0, np.inf, 0.0], [2, 3, 1]),
        ("hybrid-2", [1 / 3, 0.0, 0.0], [3, 1, 2]),
        ("hybrid-3", [3.5, 3.0, 0.0], [3, 2, 1]),
        ("inverted", [3.0, 0.0, 0.0], [1, 2, 3]),
    ],
)
def test_by_hand(criterion, expected, order, modules, tmp_path):
    rows, about = run(criterion, modules, [dump(tmp_path / "a.parquet")], tmp_path)
    assert [row["score"] for row in rows] == pytest.approx(expected, rel=1e-15)
    assert [row["rank"] for row in rows] == order
    assert [row["mu"] for row in rows] == [3.0, 3.0, 0.0]
    assert [row["sigma"] for row in rows] == [1.0, 0.0, 0.0]
    assert about["direction"] == ("descending" if criterion == "inverted" else "ascending")
    assert about["batches"] == 2


def test_only_the_first_k_batches_count(modules, tmp_path):
    rows, about = run("hybrid-3", modules, [dump(tmp_path / "a.parquet")], tmp_path, batches=1)
    assert [row["mu"] for row in rows] == [2.0, 3.0, 0.0]
    assert about["batches"] == 1


def test_chunks_in_any_order(modules, tmp_path):
    one = dump(tmp_path / "a.parquet", batches=(0,))
    two = dump(tmp_path / "b.parquet", batches=(1,))
    assert run("hybrid", modules, [one, two], tmp_path) == run("hybrid", modules, [two, one], tmp_path)


def test_random_needs_no_dump_and_follows_its_seed(modules, tmp_path):
    first = run("random", modules, [], tmp_path)[0]
    assert first == run("random", modules, [], tmp_path)[0]
    assert [r["score"] for r in first] != [r["score"] for r in run("random", modules, [], tmp_path, seed=1)[0]]
    assert [r["mu"] for r in first] == [None] * 3


def test_manifest_beside(modules, tmp_path):
    run("hybrid", modules, [dump(tmp_path / "a.parquet")], tmp_path)
    about = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    assert about["settings"]["criterion"] == "hybrid"
    assert "hybrid_lora/scores/criteria.py" in about["code"]
    assert about["inputs"]["modules"].keys() == {str(modules)}


BAD = {
    "another warm-up": (lambda p: [dump(p / "a.parquet", (0,)), dump(p / "b.parquet", (1,), warmup="x")], "another warm-up"),
    "missing batch": (lambda p: [dump(p / "a.parquet", (0,))], "batch 1 of module"),
    "missing module": (lambda p: [dump(p / "a.parquet", names=NAMES[:2])], NAMES[2]),
    "foreign module": (lambda p: [dump(p / "a.parquet", names=[*NAMES, "model.layers.9.q_proj"])], "model.layers.9.q_proj"),
    "nan": (lambda p: [dump(p / "a.parquet", change={(1, NAMES[1], 0): float("nan")})], f"batch 1 of module {NAMES[1]}"),
    "infinite": (lambda p: [dump(p / "a.parquet", change={(0, NAMES[2], 1): float("inf")})], f"batch 0 of module {NAMES[2]}"),
    "batch twice": (lambda p: [dump(p / "a.parquet"), dump(p / "b.parquet", (1,))], "b.parquet: batch 1 of module .* in another"),
    "another model": (
        lambda p: [dump(p / "a.parquet", model=IDENTITY | {"id": "other"})],
        "a.parquet: computed on model other .*not toy",
    ),
    "another revision": (lambda p: [dump(p / "a.parquet", model=IDENTITY | {"revision": "b"})], "revision b, .*revision None"),
    "other settings": (
        lambda p: [dump(p / "a.parquet", (0,)), dump(p / "b.parquet", (1,), settings={"seed": 1})],
        r"b\.parquet: computed with seed 1, .*a\.parquet with 0; all dumps must be alike",
    ),
    "nothing": (lambda p: [], "criterion hybrid is computed from sensitivity; --dumps names no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_dumps(case, modules, tmp_path):
    make, message = BAD[case]
    with pytest.raises(UserError, match=message):
        run("hybrid", modules, make(tmp_path), tmp_path)
    assert not (tmp_path / "out.parquet").exists()


def rewritten(path, change):
    """The dump with its table changed, its origin kept."""
    table, about = sensitivity.read(path)
    sensitivity.write(path, change(table), about)
    return path


@pytest.mark.parametrize("column", ["batch", "module", "component", "grad"])
def test_empty_cells(column, modules, tmp_path):
    def change(table):
        values = [None, *table[column].to_pylist()[1:]]
        return table.set_column(table.column_names.index(column), column, pa.array(values, sensitivity.SCHEMA.field(column).type))

    with pytest.raises(UserError, match=rf"a\.parquet: column '{column}' has empty cells"):
        run("hybrid", modules, [rewritten(dump(tmp_path / "a.parquet"), change)], tmp_path)


def test_rows_twice_in_one_file(modules, tmp_path):
    """A component in another's place would leave the count right and the score wrong."""
    whole = rewritten(dump(tmp_path / "a.parquet"), lambda table: pa.concat_tables([table, table]))
    with pytest.raises(UserError, match=rf"a\.parquet: batch 0 of module {NAMES[0]} is listed twice"):
        run("hybrid", modules, [whole], tmp_path)
    one = rewritten(
        dump(tmp_path / "b.parquet"),
        lambda table: table.set_column(4, "component", pa.array([*table["component"].to_pylist()[:-1], 0], pa.int32())),
    )
    with pytest.raises(UserError, match=rf"b\.parquet: batch 1 of module {NAMES[2]} is listed twice"):
        run("hybrid", modules, [one], tmp_path)


@pytest.mark.parametrize("value", [0.1, 1e-30, 3e20])
def test_batches_that_agree_have_no_deviation(value, modules, tmp_path):
    """In floating point the mean of 20 times 0.1 is not 0.1, and the deviation from it is not 0."""
    same = {(t, name, i): value for t in range(20) for name in NAMES for i in range(2)}
    rows, _ = run("hybrid-1", modules, [dump(tmp_path / "a.parquet", range(20), change=same)], tmp_path, batches=20)
    assert [row["sigma"] for row in rows] == [0.0] * 3
    assert [row["score"] for row in rows] == [np.inf] * 3
    assert [row["mu"] for row in rows] == [1.5 * float(np.float32(value))] * 3


def test_order_of_rows_changes_no_bit(modules, tmp_path):
    """A sum of floats depends on its order."""
    draw = np.random.default_rng(0)
    change = {(t, name, i): 10 ** draw.uniform(-12, 4) for t in range(20) for name in NAMES for i in range(16)}
    path = dump(tmp_path / "a.parquet", range(20), change=change, rank=16)
    expected = run("hybrid", modules, [path], tmp_path, batches=20)
    rewritten(path, lambda table: table.take(draw.permutation(table.num_rows)))
    assert run("hybrid", modules, [path], tmp_path, batches=20) == expected


def test_component_missing(modules, tmp_path):
    path = dump(tmp_path / "a.parquet")
    table, about = sensitivity.read(path)
    sensitivity.write(path, table.slice(0, table.num_rows - 1), about)
    with pytest.raises(UserError, match=f"batch 1 of module {NAMES[2]} is missing"):
        run("hybrid", modules, [path], tmp_path)


def test_dumps_of_a_warmup_that_is_gone(modules, tmp_path):
    """All chunks agree, but the probe was warmed up anew since."""
    write_json(tmp_path / "warmup/manifest.json", {"outputs": {"probe.safetensors": "new"}})
    paths = [dump(tmp_path / "a.parquet", warmup="old")]
    with pytest.raises(UserError, match=r"a\.parquet: computed with another warm-up than the probe's present one"):
        run("hybrid", modules, paths, tmp_path, [tmp_path / "warmup/manifest.json"])
    paths = [dump(tmp_path / "a.parquet", warmup="new")]
    assert run("hybrid", modules, paths, tmp_path, [tmp_path / "warmup/manifest.json"])


def test_dumps_without_metadata_are_taken_with_a_warning(modules, tmp_path, capsys):
    """Rewritten by somebody's notebook: the numbers are judged, the origin is not known."""
    import pyarrow.parquet as pq

    write_json(tmp_path / "warmup/manifest.json", {"outputs": {"probe.safetensors": "new"}})
    path = dump(tmp_path / "a.parquet")
    expected = run("hybrid", modules, [path], tmp_path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert run("hybrid", modules, [path], tmp_path, [tmp_path / "warmup/manifest.json"]) == expected
    assert "a.parquet does not say which warm-up" in capsys.readouterr().err


def test_unknown_criterion(modules, tmp_path):
    with pytest.raises(UserError, match="criterion 'hybird' is not known; allowed: hybrid, hybrid-1"):
        run("hybird", modules, [], tmp_path)


def test_truncated_and_foreign_parquet(modules, tmp_path):
    path = dump(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file"):
        run("hybrid", modules, [path], tmp_path)
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=r"a\.parquet: column 'batch' is missing"):
        run("hybrid", modules, [path], tmp_path)


def test_population_deviation():
    values = np.array([[1.0], [2.0], [6.0]])
    assert values.std(axis=0)[0] == pytest.approx(np.sqrt(((values - 3) ** 2).mean()))
    assert criteria.hybrid(values.mean(axis=0), values.std(axis=0))[0] == pytest.approx(3 * np.sqrt(14 / 3))
