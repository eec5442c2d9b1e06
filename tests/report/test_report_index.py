"""The index shows what exists, with links that work from where it lies."""

import json

from hybrid_lora.report.__main__ import main


def test_index_embeds_figure_and_table(tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "figure2.png").write_bytes(b"png")
    (report / "table1.md").write_text("| a |\n| --- |\n| 41.7 |\n")
    (report / "table1.csv").write_text("a\n41.7\n")
    artifacts = [str(report / name) for name in ("figure2.png", "table1.md", "table1.csv")]
    out = report / "index.md"
    assert main(["index", "--artifacts", *artifacts, "--out", str(out), "--settings", json.dumps({"title": "Demo"})]) == 0
    text = out.read_text()
    assert text.startswith("# Demo\n")
    assert "](figure2.png)" in text and "![" in text
    assert "| 41.7 |" in text
    for name in ("figure2.png", "table1.md", "table1.csv"):
        assert sum(line.startswith(f"- [{name}]({name}): ") for line in text.splitlines()) == 1


def test_missing_artifact_is_one_line(tmp_path, capsys):
    arguments = [
        "--artifacts",
        str(tmp_path / "figure2.png"),
        "--out",
        str(tmp_path / "index.md"),
        "--settings",
        '{"title": "x"}',
    ]
    assert main(["index", *arguments]) == 2
    assert "figure2.png: no such file" in capsys.readouterr().err
