"""A folder with trained policies of one tiny base, in which every test here runs."""

import argparse

import pytest
from exported import FFT, OBJECTIVE, PLACEMENTS

from hybrid_lora.contracts import allocation
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.training import train


@pytest.fixture(scope="session")
def work(tmp_path_factory, model_folder, corpus_files):
    """A folder as a checkout has it: results/training/{hybrid,lora,lora-ffn,full}/policy of one tiny base."""
    root = tmp_path_factory.mktemp("exporting")
    listed = modules_file.read(model_folder / "modules.json")
    value = dict.fromkeys(allocation.KEYS) | {"schema_version": 1, "model": listed["model"], "fft": FFT}
    value |= {"probe": "default", "criterion": "hybrid", "overflow": "stop"}
    value |= {"budget": {"unit": "params", "ratio": 0.1, "used": 0.0987}, "counts": {"fft": 3, "lora": 11, "candidates": 14}}
    names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
    value["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0, "names": names}
    allocation.write(root / "a.json", value)
    for run, placement in PLACEMENTS.items():
        settings = {"run": run, "seed": 0, "placement": placement, "objective": OBJECTIVE, "grading": {}}
        settings["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0}
        folder = root / "results/training" / run
        train.run(
            argparse.Namespace(
                settings=settings,
                model=model_folder,
                train=corpus_files[0],
                val=corpus_files[1],
                allocation=[root / "a.json"] if run == "hybrid" else [],
                out=folder / "policy",
                history=folder / "history.parquet",
                trainable=folder / "trainable.json",
                samples=folder / "samples.parquet",
                state=root / "state" / run,
                workers=1,
                programs=[],
            )
        )
    return root


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    monkeypatch.chdir(work)
