"""Atomic files, state stamps, seeds, progress, manifests and the closure of imports."""

import io
import json
import subprocess
import sys

import pytest

from hybrid_lora.common import cli, code, files, manifest, seeds, state
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress, clock


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"x": float("nan")})
    assert files.read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_directory_artifact_replaces_all_or_nothing(tmp_path):
    out = tmp_path / "model"
    with files.directory_artifact(out) as folder:
        (folder / "old").write_text("1")
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError), files.directory_artifact(out) as folder:
        (folder / "new").write_text("2")
        raise RuntimeError
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "old"]
    with files.directory_artifact(out) as folder:
        (folder / "new").write_text("2")
        (folder / "manifest.json").write_text("{}")
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_seeds_are_named():
    assert seeds.derive(0, "a", 1) == seeds.derive(0, "a", 1)
    assert len({seeds.derive(0, "a", 1), seeds.derive(0, "a", 2), seeds.derive(1, "a", 1), seeds.derive(0, "a1")}) == 4
    assert 0 <= seeds.derive(0) < 2**63


def test_state_survives_only_for_the_same_computation(tmp_path, capsys):
    source = tmp_path / "input"
    source.write_text("1")
    folder = state.open_state(tmp_path / "s", {"a": 1}, [source], [])
    (folder / "work").write_text("half done")
    assert (state.open_state(tmp_path / "s", {"a": 1}, [source], []) / "work").exists()
    source.write_text("2")
    assert not (state.open_state(tmp_path / "s", {"a": 1}, [source], []) / "work").exists()
    assert "saved state is of other inputs; starting anew" in capsys.readouterr().err
    (folder / "work").write_text("half done")
    assert not (state.open_state(tmp_path / "s", {"a": 2}, [source], []) / "work").exists()
    assert "other settings" in capsys.readouterr().err


def test_progress_has_an_eta_and_ends_with_the_total():
    out = io.StringIO()
    progress = Progress("x", 4, start=2, every=0, stream=out)
    progress.step(loss=0.5)
    progress.step()
    first, last = out.getvalue().splitlines()
    assert first.startswith("x 3/4 (75 %)")
    assert "ETA" in first and "loss=0.5" in first
    assert last.startswith("x 4/4 (100 %)")
    assert clock(3723) == "1:02:03"


def test_closure_of_imports_follows_modules_and_nothing_else():
    found = {p.split("hybrid_lora/", 1)[1] for p in code.sources("hybrid_lora.scores.aggregate")}
    assert {"scores/aggregate.py", "scores/criteria.py", "contracts/tables.py"} <= found
    assert "contracts/__init__.py" not in found  # a docstring alone
    assert not any(p.startswith(("training/", "modeling/", "grading/", "evaluation/")) for p in found)
    assert "grading/dispatch.py" in {p.split("hybrid_lora/", 1)[1] for p in code.sources("hybrid_lora.training.train")}


def test_closure_is_what_python_really_imports():
    """All our modules that the interpreter loads are in the static closure."""
    program = "import sys, hybrid_lora.training.train; print(*[m for m in sys.modules if m.startswith('hybrid_lora')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    closure = {p.split("/workflow/", 1)[1] for p in code.sources("hybrid_lora.training.train")}
    missing = [m for m in loaded if {m.replace(".", "/") + ".py", m.replace(".", "/") + "/__init__.py"}.isdisjoint(closure)]
    packages = {str(p.relative_to(code.ROOT).parent).replace("/", ".") for p in code.ROOT.rglob("hybrid_lora/**/__init__.py")}
    assert loaded and set(missing) <= packages


def test_manifest_keys(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    manifest.write_beside(path, "s", {"k": 1}, {"i": path}, [__file__], note=1)
    about = json.loads((tmp_path / "a.manifest.json").read_text())
    keys = {"schema_version", "stage", "settings", "inputs", "code", "outputs", "packages", "git_commit", "device"}
    keys |= {"wall_s", "peak_memory_mb", "note"}
    assert keys <= set(about)
    assert about["outputs"]["a"] == files.sha256_file(path) == about["inputs"]["i"][str(path)]
    assert about["packages"]["torch"]
    assert about["sizes"] == {"a": 1}
    assert about["sha256"] == manifest.seal(about)
    assert manifest.seal({**about, "wall_s": about["wall_s"] + 1}) != about["sha256"]


def test_a_seal_survives_being_written(tmp_path):
    """Keys that are no text and tuples change in JSON; the seal must not."""
    about = manifest.describe("s", {"k": (1, 2)}, {}, [], by_step={10: 0.1, 9: 1e-7})
    files.write_json(tmp_path / "m.json", about)
    assert manifest.seal(files.read_json(tmp_path / "m.json")) == about["sha256"]


@pytest.mark.parametrize("text", ["{", "[1]", "@/no/such/file"])
def test_bad_settings_are_one_line(text, capsys):
    import argparse

    parser = argparse.ArgumentParser(prog="x")
    cli.command(parser.add_subparsers(), "c", print, "c")
    with pytest.raises(SystemExit):
        cli.run(parser, ["c", "--settings", text])
    assert "not a JSON object" in capsys.readouterr().err


def test_user_error_is_one_line_and_status_2(tmp_path):
    command = [sys.executable, "-m", "hybrid_lora", "scores", "aggregate", "--modules", str(tmp_path / "none.json")]
    settings = '{"criterion": "hybrid", "model": "m", "probe": "p", "partitions": 1}'
    done = subprocess.run([*command, "--out", str(tmp_path / "o"), "--settings", settings], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"hybrid_lora: error: {tmp_path}/none.json: no such file\n"


def test_reading_what_is_not_json(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a JSON file"):
        files.read_json(tmp_path / "a")


def test_a_missing_setting_is_one_line_at_any_depth():
    from hybrid_lora.common import cli

    given = cli.settings('{"a": {"b": 1}}')
    assert given == {"a": {"b": 1}} and json.dumps(given) == '{"a": {"b": 1}}'
    with pytest.raises(UserError, match=r"--settings: key 'c' is missing among a"):
        given["c"]
    with pytest.raises(UserError, match=r"--settings: key 'c' is missing among b"):
        given["a"]["c"]
