"""What keeps a job's settings the same: one way to write a number, hashes of local files that follow content alone."""

import os

from hybrid_lora.config import fingerprints
from hybrid_lora.config.settings import Settings


def test_a_number_is_written_in_one_way():
    assert repr(Settings({"b": [1.0, 0.5], "a": {"x": 2.0}})) == repr(Settings({"a": {"x": 2}, "b": [1, 0.5]}))
    assert repr(Settings({"a": True})) != repr(Settings({"a": 1}))
    assert str(Settings({"a": 1e300, "b": 1.0e-6})) == '{"a": 1e+300, "b": 1e-06}'


def test_a_file_is_read_again_only_when_its_size_or_time_changes(tmp_path, monkeypatch):
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    read = []
    real = fingerprints.sha256_file
    monkeypatch.setattr(fingerprints, "sha256_file", lambda path: read.append(path) or real(path))
    first = fingerprints.Fingerprints(tmp_path).sha256(data)
    assert fingerprints.Fingerprints(tmp_path).sha256(data) == first and len(read) == 1
    os.utime(data, (1, 1))
    assert fingerprints.Fingerprints(tmp_path).sha256(data) == first and len(read) == 2
    data.write_text("two")
    assert fingerprints.Fingerprints(tmp_path).sha256(data) != first


def test_damaged_or_unwritable_hashes_are_computed_again(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    wanted = fingerprints.Fingerprints(tmp_path).sha256(data)
    for text in ("{", "[1]", '{"a": 1}'):
        (tmp_path / fingerprints.CACHE).write_text(text)
        assert fingerprints.Fingerprints(tmp_path).sha256(data) == wanted
    in_the_way = tmp_path / "other"
    in_the_way.mkdir()
    (in_the_way / "results").write_text("no folder")
    assert fingerprints.Fingerprints(in_the_way).sha256(data) == wanted
