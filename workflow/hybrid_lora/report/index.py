"""results/report/index.md: every figure and table of the report with a line about it, shown where Markdown can."""

import os
from pathlib import Path

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import write_text
from hybrid_lora.report.settings import need

CAPTIONS = {
    "figure2.png": "Module placements: red cells are fine-tuned in full, pale ones through LoRA",
    "figure2.svg": "the same figure as vectors",
    "table1.md": "Results on all benchmarks and numbers of tunable parameters",
    "table1.csv": "the same table with exact counts and 95 % intervals",
    "table1.tex": "the same table with intervals, for LaTeX",
}


def run(settings, artifacts, out):
    """settings: {title}; artifacts: paths in the order they are shown. PNG files are embedded, Markdown files copied in."""
    need(settings, ("title",), "index settings")
    lines = [f"# {settings['title']}", ""]
    for path in artifacts:
        lines.append(f"- [{path.name}]({_link(path, out)}){_after(': ', CAPTIONS.get(path.name))}")
    for path in artifacts:
        lines += _shown(path, out)
    write_text(out, "\n".join(lines) + "\n")
    manifest.write_beside(out, "report.index", settings, {"artifacts": artifacts}, code.sources("hybrid_lora.report.index"))


def _shown(path, out):
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    caption = CAPTIONS.get(path.name, path.stem)
    if path.suffix == ".png":
        return ["", f"## {path.stem}", "", caption + ".", "", f"![{caption}]({_link(path, out)})"]
    if path.suffix == ".md":
        return ["", f"## {path.stem}", "", caption + ".", "", path.read_text(encoding="utf-8").rstrip()]
    return []


def _link(path, out):
    return Path(os.path.relpath(path, Path(out).parent)).as_posix()


def _after(separator, text):
    return f"{separator}{text}" if text else ""
