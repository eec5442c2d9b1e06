"""Manifests found and read, hashes, differences between a manifest and a job of today; verify on single files and folders."""

import argparse
import json
import os
from pathlib import Path

import pytest

from hybrid_lora.common import manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file, write_json
from hybrid_lora.provenance import differences, records, today, verify

SETTINGS = {"steps": 2, "rate": {"full": 1e-6}, "names": ["a", "b"], "rows": [{"k": 1}, {"k": 2}], "packages": {"torch": "2.1"}}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


@pytest.fixture
def job():
    """A job of today with its artifact results/scores/s, made from results/data/d and one file of code, all up to date."""
    data, code = put("results/data/d", "rows"), put("workflow/hybrid_lora/scores/a.py", "1")
    out = put("results/scores/s", "scores")
    manifest.write_beside(data, "data.corpus", {}, {}, [])
    manifest.write_beside(out, "scores.aggregate", SETTINGS, {"dumps": [data]}, [code])
    again = json.loads(json.dumps(SETTINGS))
    return today.Job("scores", {}, "scores.aggregate", again, [data], [code], [out], raw=None)


def texts(job, exact=True):
    return [found.text for found in differences.find(job, job.outputs[0], records.Records(exact))]


def folder():
    """A directory artifact results/models/m of two files."""
    files = [put("results/models/m/weights", "w" * 100), put("results/models/m/config", "c")]
    write_json("results/models/m/manifest.json", manifest.describe("model.fetch", {}, {}, [], files))
    return "results/models/m"


def problems(*paths):
    return verify.check(paths or ["results"]).problems


@pytest.mark.parametrize("exact", [True, False])
def test_nothing_differs(job, exact):
    assert texts(job, exact) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update(steps=3), "setting steps: was 2, now 3"),
        (lambda s: s.update(steps=2.5), "setting steps: was 2, now 2.5"),
        (lambda s: s["rate"].update(full=2e-6), "setting rate.full: was 1e-06, now 2e-06"),
        (lambda s: s["rate"].update(lora=1), "setting rate.lora: was not set, now 1"),
        (lambda s: s.pop("steps"), "setting steps: was 2, now not set"),
        (lambda s: s["names"].append("c"), 'setting names: was ["a", "b"], now ["a", "b", "c"]'),
        (lambda s: s["rows"][1].update(k=3), "setting rows[1].k: was 2, now 3"),
        (lambda s: s["packages"].update(torch="2.2"), 'package torch: was "2.1", now "2.2"'),
        (lambda s: s.update(steps=True), "setting steps: was 2, now true"),
    ],
)
def test_a_setting_in_words(job, change, text):
    change(job.settings)
    assert texts(job) == [text]


def test_settings_come_in_the_order_of_numbers():
    old, new = {"r": [{"k": i} for i in range(12)]}, {"r": [{"k": -i - 1} for i in range(12)]}
    assert [found.what for found in differences.settings(old, new)] == [f"r[{i}].k" for i in range(12)]


def test_an_input_in_words(job):
    put("results/data/d", "other rows")
    (text,) = texts(job)
    was, now = (read_json("results/scores/s.manifest.json")["inputs"]["dumps"]["results/data/d"], sha256_file("results/data/d"))
    assert text == f"input results/data/d: its content is not what it was (sha256 was {was[:12]}, now {now[:12]})"
    job.inputs = [put("results/data/e", "e")]
    assert texts(job) == ["input results/data/d: was read, now is not", "input results/data/e: was not read, now is"]


def test_the_same_content_under_another_name_is_the_same(job):
    os.rename("results/data/d", "results/data/renamed")
    job.inputs = ["results/data/renamed"]
    assert texts(job) == []


def test_an_input_that_is_gone_is_known_by_its_manifest(job):
    os.unlink("results/data/d")
    assert texts(job) == [] == differences.unknown(job, records.Records(exact=True))
    os.unlink("results/data/d.manifest.json")
    assert differences.unknown(job, records.Records(exact=True)) == ["results/data/d"]


def test_code_in_words(job):
    put(job.code[0], "2")
    (text,) = texts(job)
    assert text.startswith("code hybrid_lora/scores/a.py: edited (sha256 was ")
    put(job.code[0], "1")
    job.code.append(put("workflow/hybrid_lora/scores/b.py", "b"))
    assert texts(job) == ["code hybrid_lora/scores/b.py: was not used, now is"]


def test_another_command_and_no_manifest(job):
    job.command = "scores.other"
    assert texts(job) == ["it was made by scores.aggregate, now scores.other makes it"]
    os.unlink("results/scores/s.manifest.json")
    assert "no manifest" in texts(job)[0]


def test_a_quick_look_reads_what_is_small_or_does_not_look_as_it_was(job, monkeypatch):
    put("results/data/d", "ROWS")
    assert "content is not what it was" in texts(job, exact=False)[0]  # small
    monkeypatch.setattr(records, "LARGE", 0)
    assert texts(job, exact=False) == []  # trusted: of the size and the time it had
    os.utime("results/data/d.manifest.json", (1, 1))
    assert "content is not what it was" in texts(job, exact=False)[0]
    os.utime("results/data/d.manifest.json")
    put("results/data/d", "more rows")
    assert "content is not what it was" in texts(job, exact=False)[0]


def test_code_names_do_not_depend_on_the_checkout():
    assert manifest.code_name("/home/x/hybrid_lora/workflow/hybrid_lora/common/files.py") == "hybrid_lora/common/files.py"
    assert manifest.code_name("workflow/hybrid_lora/common/files.py") == "hybrid_lora/common/files.py"
    assert manifest.code_name("/elsewhere/tool.py") == "tool.py"


def test_all_is_well(job):
    folder()
    assert problems() == {}


@pytest.mark.parametrize("path", ["results/scores/s", "results/models/m/weights"])
def test_altered_truncated_longer_missing(job, path):
    folder()
    whole = Path(path).read_text()
    for text, what in ((whole[:-1], "truncated: "), (whole[:-1] + "X", "altered: its SHA-256"), (whole + "X", "altered: ")):
        put(path, text)
        assert problems() == {path: problems()[path]} and problems()[path].startswith(what)
        assert problems(path) == problems()
    os.unlink(path)
    assert list(problems()) == list(problems(path)) == [path]
    assert problems()[path].startswith("missing; ")


def test_foreign_files(job):
    folder()
    put("results/models/m/more", "x")
    put("results/notes", "x")
    for ignored in (
        "results/README.md",
        "results/logs/a.log",
        "results/benchmarks/a.tsv",
        "results/.state/x/y",
        "results/.a.tmp",
    ):
        put(ignored, "x")
    assert problems() == {
        "results/models/m/more": "foreign: results/models/m/manifest.json does not list it",
        "results/notes": "no manifest tells of it",
    }
    put("results/data/benchmarks/b", "x")  # only results/benchmarks holds no artifacts
    assert "results/data/benchmarks/b" in problems()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_manifest(job, text):
    put("results/scores/s.manifest.json", text)
    assert set(problems()) == {"results/scores/s.manifest.json", "results/scores/s"}
    assert set(problems("results/scores/s")) == set(problems())


def test_a_manifest_with_another_content_than_was_written(job):
    about = read_json("results/scores/s.manifest.json")
    write_json("results/scores/s.manifest.json", {**about, "settings": {**SETTINGS, "steps": 3}})
    assert problems()["results/scores/s.manifest.json"] == "altered since it was written"
    with pytest.raises(UserError, match="altered since it was written"):
        records.Records(exact=True).of("results/scores/s")


def test_a_file_and_its_manifest_both_gone_are_missed_by_what_was_made_from_it(job):
    os.unlink("results/data/d")
    os.unlink("results/data/d.manifest.json")
    assert list(problems()) == ["results/data/d"]
    assert problems("results/scores") == {}  # only what belongs into the folder that is looked at


def test_verify_says_what_it_looked_at(job, capsys):
    asked = argparse.Namespace(paths=["results"])
    verify.run(asked)
    assert "2 files of 2 manifests: all as they were made" in capsys.readouterr().out
    put("results/scores/s", "x")
    with pytest.raises(UserError, match="1 problems in 2 files of 2 manifests"):
        verify.run(asked)
    assert capsys.readouterr().out.startswith("results/scores/s: truncated: 1 of 6 bytes")
    asked.paths = ["results/nothing"]
    with pytest.raises(UserError, match="no such file"):
        verify.run(asked)
