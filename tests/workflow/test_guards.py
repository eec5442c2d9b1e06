"""Structure that must stay: stages do not import one another, imports go one way, every rule is whole."""

import ast
import re
from pathlib import Path

import pytest

from hybrid_lora.__main__ import STAGES

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "workflow/hybrid_lora"
# library -> what it may import of ours
LAYERS = {
    "common": {"common"},
    "contracts": {"contracts", "common"},
    "grading": {"grading", "contracts", "common"},
    "modeling": {"modeling", "contracts", "common"},
    "objectives": {"objectives", "modeling", "grading", "contracts", "common"},
    "config": {"config", "contracts", "common"},
    "export": {"export", "modeling", "contracts", "common"},
    "provenance": {"provenance", "config", "contracts", "common"},
    "plan": {"plan", "allocation", "config", "modeling", "contracts", "common"},
}
MODULE_STAGES = [stage for stage in STAGES if stage != "config"]


def imported(path):
    """The subpackages of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hybrid_lora.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0]
    if part in MODULE_STAGES:
        allowed = {part, "contracts", "common", "modeling", "grading", "objectives"}
    elif part in LAYERS:
        allowed = LAYERS[part]
    else:
        return  # __main__ dispatches to all stages
    assert imported(path) <= allowed


def rules():
    for path in sorted((REPO / "rules").glob("*.smk")):
        for block in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            yield block.split(":")[0], block


@pytest.mark.parametrize(("name", "block"), list(rules()), ids=[name for name, _ in rules()])
def test_rules_are_whole(name, block):
    for directive in ("input", "output", "params", "log", "benchmark", "threads", "resources", "conda", "message", "shell"):
        assert re.search(rf"^    {directive}:", block, re.MULTILINE), directive
    params = re.search(r"^    params:\n((?:        .*\n)+)", block, re.MULTILINE)[1]
    assert len(params.strip().splitlines()) == 1 and params.strip().startswith("settings=")
    assert re.search(r"^        code=", block, re.MULTILINE)
    for resource in ("mem_mb", "runtime", "gpu"):
        assert f"        {resource}=" in block
    shell = block.split("    shell:\n")[1].strip().splitlines()
    assert len(shell) == 1
    command = re.match(r'"python -m hybrid_lora\.(\w+) ([\w-]+) ', shell[0])
    assert re.search(rf'code=(lambda w: )?code\(\s*"{command[1]}\.(\w+)"', block)


def test_every_python_file_says_what_it_is_for():
    silent = [str(p) for p in PACKAGE.rglob("*.py") if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
