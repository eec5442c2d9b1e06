"""Which best policies are kept; what they are is in tests/training/test_train.py."""

from types import SimpleNamespace

from hybrid_lora.common import checkpoints
from hybrid_lora.modeling.stopping import Stopping
from hybrid_lora.training.validation import KeepBest


def test_no_more_best_policies_are_kept_than_there_is_a_use_for(tmp_path, monkeypatch):
    """That of now and those of the checkpoints, however seldom a checkpoint is saved."""
    losses = iter([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    best = KeepBest(tmp_path, lambda *given: next(losses), every=1)
    monkeypatch.setattr(best, "_save", lambda model, name: (tmp_path / name).mkdir())
    told, control = [], SimpleNamespace(should_log=True)
    handler = SimpleNamespace(on_log=lambda args, state, control, logs: told.append(logs))
    best.trainer = SimpleNamespace(callback_handler=handler, stopping=Stopping())
    for step in range(1, 7):
        state = SimpleNamespace(global_step=step, max_steps=9, epoch=0, log_history=[], is_world_process_zero=True)
        best.on_step_end(SimpleNamespace(process_index=0, world_size=1, seed=0), state, control)
        if step == 2:
            with checkpoints.saving(tmp_path, "checkpoint-2") as folder:
                (folder / "trainer_state.json").write_text('{"log_history": []}')
    assert told == [{"validation_loss": 7.0 - step} for step in range(1, 7)]
    assert sorted(path.name for path in tmp_path.glob("best-*")) == ["best-2", "best-6"]


def test_a_checkpoint_without_its_log_is_passed_over(tmp_path):
    for name, content in (("a", "{}"), ("b", "[]"), ("c", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(content)
        assert "trainer_state.json" in KeepBest(tmp_path, None, 1).problem(tmp_path / name)
    assert "trainer_state.json" in KeepBest(tmp_path, None, 1).problem(tmp_path / "gone")
