"""`report diagnose` on score files and allocations written through their contracts, and its statistics by hand."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest

from hybrid_lora.contracts import allocation, modules, scores
from hybrid_lora.contracts.modules import TYPES
from hybrid_lora.report import agreement
from hybrid_lora.report.__main__ import main

IDENTITY = {"id": "m", "revision": None, "architecture_sha256": "0" * 64}
OUTPUTS = ("csv", "md", "png", "svg")
P = [0.3, -0.1, 0.2, 0.5, -0.4, 0.05, 0.6]  # of one layer's seven modules


def listed(count):
    """Entries of modules.json for the first `count` modules, layer by layer."""
    places = [(index // len(TYPES), TYPES[index % len(TYPES)]) for index in range(count)]
    shape = {"params": 4, "in_features": 2, "out_features": 2}
    return [{"module": f"layers.{layer}.{kind}", "layer": layer, "type": kind, **shape} for layer, kind in places]


class Study:
    """A folder with the files of a diagnosis; `ratio`: share of modules in full, `by`: what `scores` files hold."""

    def __init__(self, folder, count=7):
        self.folder, self.listed = folder, listed(count)
        self.modules = folder / "modules.json"
        modules.write(self.modules, IDENTITY, 1000, self.listed)
        self.settings = {
            "model": "m",
            "probe": "default",
            "unit": "modules",
            "ratio": 0.3,
            "partitions": 20,
            "bootstrap": 200,
            "seed": 0,
        }
        self.settings |= {"perturbation": None, "criteria": [], "stability": []}
        self.files = {"scores": [], "allocations": []}

    def scores(self, name, values, direction="ascending", criterion=None, model="m", batches=20):
        """Write a score file in which `values` are the modules' scores; returns its path."""
        path = self.folder / f"{name}.parquet"
        keys = ("module", "layer", "type", "params")
        rows = [{**{k: m[k] for k in keys}, "score": v, "rank": i + 1} for i, (m, v) in enumerate(zip(self.listed, values))]
        scores.write(path, rows, {"criterion": criterion or name, "direction": direction, "model": model, "batches": batches})
        self.files["scores"].append(str(path))
        return str(path)

    def criterion(self, name, values, direction="ascending", **about):
        self.settings["criteria"].append({"criterion": name, "scores": self.scores(name, values, direction, **about)})

    def perturbation(self, values, **about):
        self.settings["perturbation"] = self.scores("perturbation", values, **about)

    def variant(self, key, value, score, full, criterion="hybrid"):
        """An entry of `seeds` or `partitions`: scores and an allocation whose FFT set is the modules numbered `full`."""
        name = f"{criterion}-{key}{value}"
        names = [m["module"] for m in self.listed]
        fft = [names[i] for i in full]
        path = self.folder / f"{name}.json"
        values = dict.fromkeys(allocation.KEYS)
        values |= {"schema_version": 1, "model": IDENTITY, "criterion": criterion, "fft": fft}
        values |= {"budget": {"unit": self.settings["unit"], "ratio": self.settings["ratio"], "used": 0.1}}
        values |= {"lora": {"rank": 2, "names": [n for n in names if n not in fft]}}
        allocation.write(path, values)
        self.files["allocations"].append(str(path))
        return {key: value, "scores": self.scores(name, score, criterion=criterion), "allocation": str(path)}

    def stability(self, criterion="hybrid", seeds=(), partitions=()):
        made = {"seeds": [self.variant("seed", *seed, criterion) for seed in seeds]}
        made["partitions"] = [self.variant("partitions", *number, criterion) for number in partitions]
        self.settings["stability"].append({"criterion": criterion, **made})

    def run(self, **changes):
        """The command's exit status."""
        options = [word for name in OUTPUTS for word in (f"--{name}", str(self.folder / f"d.{name}"))]
        for name, paths in self.files.items():
            options += [f"--{name}", *paths]
        settings = json.dumps({**self.settings, **changes})
        return main(["diagnose", "--modules", str(self.modules), *options, "--settings", settings])

    def rows(self, **wanted):
        """Lines of the CSV whose columns hold `wanted`."""
        with open(self.folder / "d.csv") as file:
            return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]

    def value(self, criterion, against):
        (row,) = self.rows(part="perturbation", criterion=criterion, second=against)
        return float(row["value"]) if row["value"] else None


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


def arrays(*lists):
    return [np.array(values, dtype=float) for values in lists]


def test_spearman_by_hand():
    assert agreement.spearman(*arrays([1, 2, 3, 4], [10, 20, 30, 1000])) == 1
    assert agreement.spearman(*arrays([1, 2, 3, 4], [4, 3, 2, 1])) == -1
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = -1, 1, 0, 0
    assert agreement.spearman(*arrays([1, 2, 3, 4], [2, 1, 3, 4])) == pytest.approx(1 - 6 * 2 / 60)
    # mean ranks 1.5, 1.5, 3 against 1, 2, 3: covariance 1.5, variances 1.5 and 2
    assert agreement.spearman(*arrays([5, 5, 9], [1, 2, 3])) == pytest.approx(1.5 / math.sqrt(3))
    assert agreement.spearman(*arrays([5, 5, 5], [1, 2, 3])) is None


def test_infinite_scores_are_ranked_like_others():
    assert agreement.spearman(*arrays([1, math.inf, 3, math.inf], [1, 5, 3, 5])) == 1


def test_spearman_is_pandas():
    draw = np.random.default_rng(1)
    for _ in range(20):
        first, second = draw.integers(5, size=(2, 30)).astype(float)  # many ties
        theirs = pd.DataFrame({"a": first, "b": second}).corr(method="spearman").loc["a", "b"]
        assert agreement.spearman(first, second) == pytest.approx(theirs)


def test_interval_is_the_bootstrap_worked_one_resample_at_a_time():
    first, second = np.random.default_rng(2).normal(size=(2, 12))
    draws = np.random.default_rng(7).integers(12, size=(300, 12))
    frame = pd.DataFrame({"a": first, "b": second})
    values = [frame.iloc[draw].corr(method="spearman").loc["a", "b"] for draw in draws]
    low, high, undefined = agreement.interval(first, second, 300, 7)
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert undefined == 0
    assert low < agreement.spearman(first, second) < high


def test_resamples_without_a_correlation_are_counted():
    first, second = arrays([0, 0, 0, 1], [1, 2, 3, 4])
    draws = np.random.default_rng(0).integers(4, size=(200, 4))
    constant = sum(len({(0, 0, 0, 1)[i] for i in draw}) == 1 for draw in draws)
    assert agreement.interval(first, second, 200, 0)[2] == constant > 0
    assert agreement.interval(*arrays([1, 1, 1], [1, 2, 3]), 50, 0) == (None, None, 50)


def test_jaccard_by_hand():
    assert agreement.jaccard("abc", "bcd") == 2 / 4
    assert agreement.jaccard("ab", "ab") == 1
    assert agreement.jaccard("ab", "cd") == agreement.jaccard("", "a") == 0
    assert agreement.jaccard("", "") is None
    # of 10 modules, sets of 4 and 5 share 2 on average, and the union is 7
    assert agreement.jaccard_by_chance(4, 5, 10) == pytest.approx(2 / 7)
    assert agreement.jaccard_by_chance(0, 0, 10) is None


def test_orientation(study):
    """+1 means the same modules first: scores are turned by their directions, P and |P| lowest first."""
    study.perturbation(P)
    study.criterion("hybrid", P)
    study.criterion("hybrid-1", [-p for p in P])
    study.criterion("inverted", [-p for p in P], "descending")
    study.criterion("alpha", [abs(p) for p in P])
    assert study.run() == 0
    assert [study.value(name, "P") for name in ("hybrid", "hybrid-1", "inverted")] == [1, -1, 1]
    assert study.value("alpha", "|P|") == 1
    expected = pd.DataFrame({"p": P, "abs": np.abs(P)}).corr(method="spearman").loc["p", "abs"]
    assert study.value("alpha", "P") == study.value("hybrid", "|P|") == pytest.approx(expected)
    assert study.rows(criterion="hybrid", second="P")[0]["low"] == study.rows(criterion="hybrid", second="P")[0]["high"] == "1.0"
    page = (study.folder / "d.md").read_text()
    assert "7 candidate modules" in page and "30 % of candidate modules" in page
    assert "P is negative for 2 of 7 modules" in page and "over 20 batches" in page
    assert "| hybrid-1 | -1.00 [-1.00, -1.00] | opposed |" in page


def test_ties_have_mean_ranks_whatever_the_rank_column_says(study):
    study.perturbation(P)
    study.criterion("autolora", [1, 1, 1, 1, 0, 1, 1])
    assert study.run() == 0
    expected = pd.DataFrame({"p": P, "s": [1, 1, 1, 1, 0, 1, 1]}).corr(method="spearman").loc["p", "s"]
    assert study.value("autolora", "P") == pytest.approx(expected)
    assert study.rows(criterion="autolora", second="P")[0]["distinct_scores"] == "2"


def test_constant_scores_are_said_to_be_undefined(study):
    study.perturbation(P)
    study.criterion("adalora", [3] * 7)
    study.criterion("hybrid", P)
    assert study.run() == 0
    assert study.value("adalora", "P") is None
    page = (study.folder / "d.md").read_text()
    assert "| adalora | undefined | all modules have the same score |" in page
    assert "nan" not in page.lower() + (study.folder / "d.csv").read_text().lower()
    assert "P: undefined" in (study.folder / "d.svg").read_text()


def test_constant_perturbation(study):
    study.perturbation([0.25] * 7)
    study.criterion("hybrid", P)
    assert study.run() == 0
    assert "| hybrid | undefined | all modules have the same P |" in (study.folder / "d.md").read_text()


def test_stability_over_seeds_and_partitions(study):
    study.perturbation(P)
    study.criterion("hybrid", P)
    seeds = [(0, P, [0, 1]), (1, P, [1, 2]), (2, [-p for p in P], [0, 1])]
    study.stability(seeds=seeds, partitions=[(10, P, [0, 1]), (20, P, [0, 1]), (5, [-p for p in P], [2])])
    assert study.run() == 0
    found = {(row["first"], row["second"]): float(row["value"]) for row in study.rows(part="seeds", statistic="jaccard")[:3]}
    assert found == {("seed 0", "seed 1"): 1 / 3, ("seed 0", "seed 2"): 1.0, ("seed 1", "seed 2"): 1 / 3}
    (every,) = study.rows(part="seeds", statistic="spearman", first="all pairs")
    assert [float(every[key]) for key in ("value", "low", "high")] == pytest.approx([-1 / 3, -1, 1])
    over_k = {row["first"]: (row["second"], float(row["value"])) for row in study.rows(part="partitions", statistic="spearman")}
    assert over_k == {"K = 5": ("K = 20", -1.0), "K = 10": ("K = 20", 1.0)}
    assert [float(r["value"]) for r in study.rows(part="partitions", statistic="jaccard")] == [0.0, 1.0]
    page = (study.folder / "d.md").read_text()
    assert "| hybrid | 0, 1, 2 | 3 | -0.33 [-1.00, 1.00] | 0.56 [0.33, 1.00] |" in page
    assert "| hybrid | 5 with 20 | -1.00 | 0.00 |" in page


def test_empty_sets_are_undefined(study):
    study.perturbation(P)
    study.criterion("hybrid", P)
    study.stability(seeds=[(0, P, []), (1, P, [])])
    assert study.run() == 0
    assert "| hybrid | 0, 1 | 1 | 1.00 | undefined | undefined | 0 |" in (study.folder / "d.md").read_text()


def test_same_bytes_again_and_manifests_name_the_inputs(study):
    study.perturbation(P)
    study.criterion("hybrid", P[::-1])
    study.stability(seeds=[(0, P, [0]), (1, P, [1])], partitions=[(5, P, [2]), (10, P, [2])])
    paths = [study.folder / f"d.{name}" for name in OUTPUTS]
    assert study.run() == 0
    first = [path.read_bytes() for path in paths]
    assert study.run() == 0
    assert [path.read_bytes() for path in paths] == first
    record = json.loads((study.folder / "d.png.manifest.json").read_text())
    assert set(record["inputs"]["scores"]) == set(study.files["scores"])
    assert set(record["inputs"]["allocations"]) == set(study.files["allocations"])


def complaint(capsys, status):
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    return error


def test_scores_of_another_model(study, capsys):
    study.perturbation(P)
    study.criterion("hybrid", P, model="other")
    error = complaint(capsys, study.run())
    assert "hybrid.parquet: model is 'other'" in error and "'m'" in error


def test_scores_of_another_criterion(study, capsys):
    study.perturbation(P, criterion="hybrid")
    study.criterion("hybrid-1", P)
    assert "perturbation.parquet: criterion is 'hybrid'" in complaint(capsys, study.run())


def test_missing_module(study, capsys):
    study.perturbation(P)
    study.criterion("hybrid", P[:-1])
    assert "hybrid.parquet: module 'layers.0.down' is missing" in complaint(capsys, study.run())


def test_fewer_than_three_modules(tmp_path, capsys):
    study = Study(tmp_path, count=2)
    study.perturbation(P[:2])
    study.criterion("hybrid", P[:2])
    error = complaint(capsys, study.run())
    assert "modules.json: 2 modules; rank correlations need 3 or more" in error


def test_scores_that_are_no_numbers(study, capsys):
    study.perturbation([*P[:-1], math.nan])
    study.criterion("hybrid", P)
    assert "column 'score' of module 'layers.0.down' is not a number" in complaint(capsys, study.run())


def test_allocation_of_another_budget_or_criterion(study, capsys):
    study.perturbation(P)
    study.criterion("hybrid", P)
    study.stability(seeds=[(0, P, [0]), (1, P, [1])])
    assert "hybrid-seed0.json: ratio is 0.3, 0.1 was to be diagnosed" in complaint(capsys, study.run(ratio=0.1))
    assert "unit is 'modules', 'params'" in complaint(capsys, study.run(unit="params"))


def test_files_and_settings_must_agree(study, capsys):
    study.perturbation(P)
    study.criterion("hybrid", P)
    study.files["scores"].pop()
    assert "hybrid.parquet is not among the files of --scores" in complaint(capsys, study.run())
    assert "'criteria' is empty" in complaint(capsys, study.run(criteria=[]))
    del study.settings["bootstrap"]
    assert "key 'bootstrap' is missing" in complaint(capsys, study.run())
