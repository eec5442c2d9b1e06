"""A folder with trained policies of one tiny base, in which every test here runs."""

import pytest
from exported import FFT, OBJECTIVE, PLACEMENTS
from objective_settings import LORA
from trainings import trained

from hybrid_lora.contracts import allocation
from hybrid_lora.contracts import modules as modules_file


@pytest.fixture(scope="session")
def work(tmp_path_factory, model_folder, corpus_files):
    """A folder as a checkout has it: results/training/{hybrid,lora,lora-ffn,full}/policy of one tiny base."""
    root = tmp_path_factory.mktemp("exporting")
    listed = modules_file.read(model_folder / "modules.json")
    value = dict.fromkeys(allocation.KEYS) | {"schema_version": 1, "model": listed["model"], "fft": FFT}
    value |= {"probe": "default", "criterion": "hybrid", "overflow": "stop"}
    value |= {"budget": {"unit": "params", "ratio": 0.1, "used": 0.0987}, "counts": {"fft": 3, "lora": 11, "candidates": 14}}
    names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
    value["lora"] = LORA | {"names": names}
    allocation.write(root / "a.json", value)
    for run, placement in PLACEMENTS.items():
        allocated = [root / "a.json"] if run == "hybrid" else []
        folder, state = root / "results/training" / run, root / "state" / run
        trained(folder, model_folder, corpus_files, OBJECTIVE, placement, allocated, run, state=state)
    return root


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    monkeypatch.chdir(work)
