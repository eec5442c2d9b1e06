"""Checkpoints: whole or not there, hashed, passed over when damaged, never more than asked for."""

import errno
import os

import pytest
import torch

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError


def save(work, step, text="x", keep=2):
    with checkpoints.saving(work, f"checkpoint-{step}") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text(f"{text}{step}")
    checkpoints.remove_others(work, step, keep)


def test_the_newest_is_found_and_older_ones_are_removed(tmp_path, capsys):
    assert checkpoints.newest(tmp_path, "work") is None
    assert capsys.readouterr() == ("", "")
    for step in (4, 8, 12):
        save(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [8, 12]
    assert checkpoints.newest(tmp_path, "work") == tmp_path / "checkpoint-12"
    assert capsys.readouterr().out == "work: resuming after step 12\n"
    save(tmp_path, 16, keep=1)
    assert checkpoints.steps(tmp_path) == [16]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "sub/a").write_text("y12"), "sub/a has changed since it was written"),
        (lambda folder: (folder / "sub/a").write_text(""), "sub/a has 0 bytes where 3 were written"),
        (lambda folder: (folder / "sub/a").unlink(), "unreadable ("),
        (lambda folder: (folder / "files.json").unlink(), "unreadable ("),
        (lambda folder: (folder / "files.json").write_text("{"), "unreadable ("),
        (lambda folder: (folder / "files.json").write_text('{"sub/a": 3}'), "unreadable ("),
        (lambda folder: (folder / "files.json").write_text("[]"), "files.json lists no file"),
        (lambda folder: (folder / "files.json").write_text("{}"), "files.json lists no file"),
        (lambda folder: (folder / "files.json").write_text('["sub/a"]'), "unreadable ("),
    ],
)
def test_a_damaged_one_is_passed_over(damage, said, tmp_path, capsys):
    for step in (8, 12):
        save(tmp_path, step)
    damage(tmp_path / "checkpoint-12")
    assert checkpoints.newest(tmp_path, "work") == tmp_path / "checkpoint-8"
    error = capsys.readouterr().err
    assert f"checkpoint-12: {said}" in error
    assert "going back to the checkpoint before it" in error
    save(tmp_path, 10)  # the run goes on from 8; what is left of the old future goes
    assert checkpoints.steps(tmp_path) == [8, 10]


def test_a_further_reason(tmp_path, capsys):
    for step in (8, 12):
        save(tmp_path, step)
    found = checkpoints.newest(tmp_path, "work", lambda folder: "too new" if folder.name == "checkpoint-12" else None)
    assert found == tmp_path / "checkpoint-8"
    assert "checkpoint-12: too new; going back" in capsys.readouterr().err


def test_a_half_written_one_is_never_seen(tmp_path):
    save(tmp_path, 8)
    with pytest.raises(KeyboardInterrupt), checkpoints.saving(tmp_path, "checkpoint-12"):
        raise KeyboardInterrupt
    half = checkpoints.prepare(tmp_path, "checkpoint-12")  # as kill -9 leaves it
    (half / "a").write_text("half")
    assert checkpoints.newest(tmp_path, "work") == tmp_path / "checkpoint-8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-8"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
        type("SafetensorError", (Exception,), {})("I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_cannot_be_written_is_one_line(error, tmp_path):
    save(tmp_path, 8)
    with pytest.raises(UserError) as said, checkpoints.saving(tmp_path, "checkpoint-12"):
        raise error
    line = str(said.value)
    assert line.startswith(f"{tmp_path}/checkpoint-12: cannot be written (")
    assert line.endswith("; the state of step 8 is kept; make room and start again")
    assert checkpoints.steps(tmp_path) == [8]
    with pytest.raises(ValueError, match=r"^other$"), checkpoints.saving(tmp_path, "checkpoint-12"):
        raise ValueError("other")


def test_size_is_that_of_weights_and_moments(tmp_path):
    """What torch writes for AdamW's state of n parameters, plus the weights."""
    weight = torch.nn.Parameter(torch.randn(1000, 100))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o")
    torch.save(weight, tmp_path / "w")
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written == pytest.approx(checkpoints.size_bytes(weight.numel()), rel=0.01)
    assert checkpoints.disk_bytes(10, keep=2) == 3 * (120 + 40)


def test_options_come_from_the_environment(monkeypatch):
    monkeypatch.delenv(checkpoints.ENVIRONMENT, raising=False)
    assert checkpoints.options() == {"keep": 2, "stop_margin_s": 30}
    monkeypatch.setenv(checkpoints.ENVIRONMENT, '{"keep": 5}')
    assert checkpoints.options() == {"keep": 5, "stop_margin_s": 30}
