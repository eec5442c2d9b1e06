"""An allocation of the tiny model; trainings on one process and on two."""

import json

import pytest
import replayed
from killing import Materials
from several import arguments, as_a_rule, changes, finished
from tiny_runs import FFT

from hybrid_lora.__main__ import main
from hybrid_lora.contracts import allocation
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.objectives.rl import RLTrainer


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


@pytest.fixture(scope="session")
def materials(tmp_path_factory):
    """Without dropout, which each process draws for itself."""
    made = Materials(tmp_path_factory.mktemp("materials"))
    value = json.loads((made.folder / "a.json").read_text())
    value["lora"]["dropout"] = 0.0
    (made.folder / "a.json").write_text(json.dumps(value))
    return made


@pytest.fixture(scope="session")
def pair(materials, tmp_path_factory):
    """A function: the folders of a run on one process and on two; each is made once."""
    made = {}

    def get(objective, placement, passes=(4, 4)):
        key = (objective, placement)
        if key not in made:
            folder = tmp_path_factory.mktemp("-".join(key))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(RLTrainer, "_generate_single_turn", replayed.completions)
                assert main(arguments(materials, folder / "1", *key, **changes(objective, passes[0]))) == 0
            finished(arguments(materials, folder / "2", *key, **changes(objective, passes[1])), folder / "2/log")
            made[key] = folder / "1", folder / "2"
        return made[key]

    return get


@pytest.fixture(scope="session")
def sampled(materials, tmp_path_factory):
    """A run on two processes whose completions are sampled, as a rule starts it: by the command itself."""
    folder = tmp_path_factory.mktemp("sampled")
    assert as_a_rule(arguments(materials, folder, "gspo", **changes("gspo", 4)), folder / "log").wait(300) == 0
    return folder
