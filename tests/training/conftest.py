"""An allocation of the tiny model."""

import pytest
from tiny_runs import FFT

from hybrid_lora.contracts import allocation
from hybrid_lora.contracts import modules as modules_file


@pytest.fixture(scope="session")
def allocated(model_folder, tmp_path_factory):
    listed = modules_file.read(model_folder / "modules.json")
    names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
    value = dict.fromkeys(allocation.KEYS)
    value |= {"schema_version": 1, "model": listed["model"], "fft": FFT}
    value |= {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "names": names}}
    path = tmp_path_factory.mktemp("allocation") / "a.json"
    allocation.write(path, value)
    return path
