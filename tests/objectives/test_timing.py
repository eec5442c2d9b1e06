"""The split of a step's time: complete, and where it is looked for."""

import rl_runs

from hybrid_lora.contracts import history
from hybrid_lora.objectives.timing import PARTS
from hybrid_lora.training.train import SHOWN


def split(records):
    """(seconds of all parts, seconds that passed) of the records after the first."""
    parts = sum(record[f"time_{part}_s"] for record in records[1:] for part in PARTS)
    return parts, records[-1]["elapsed_s"] - records[0]["elapsed_s"]


def test_the_parts_sum_to_the_step(tmp_path, model_folder, corpus_files, capfd):
    """Nothing is counted twice, and what is left out (reading prompts, logging) is small."""
    rewards = {"accuracy": 1.0, "format": 0.0, "length": 0.5}
    built, record = rl_runs.build(model_folder, corpus_files[0], tmp_path, steps=8, rewards=rewards, max_completion_tokens=48)
    record.show = SHOWN
    built.train()
    records = record.history()
    parts, passed = split(records)
    assert 0.9 * passed < parts <= passed + 0.01
    sampled, inside = records[2], records[3]  # two updates a generation
    assert all(sampled[f"time_{part}_s"] > 0 for part in ("generate", "reward", "log_probs", "update"))
    assert inside["time_update_s"] > 0 == inside["time_generate_s"] == inside["time_reward_s"] == inside["time_log_probs_s"]
    history.write(tmp_path / "history.parquet", records, {"run": "r"})
    kept = history.read(tmp_path / "history.parquet").to_pylist()
    shown = capfd.readouterr().err
    for part in PARTS:
        assert [row[f"time_{part}_s"] for row in kept] == [record[f"time_{part}_s"] for record in records]
        assert f" time_{part}_s=" in shown
