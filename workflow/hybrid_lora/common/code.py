"""Which of our Python files a command runs: the static closure of its imports, read with `ast`, nothing is imported.

Snakemake does not see that a module imported by `python -m` was edited. Rules therefore list these files as
`input: code=`, and manifests record their hashes; both come from here, so they cannot disagree.
"""

import ast
import functools
from pathlib import Path

PACKAGE = "hybrid_lora"
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


@functools.cache
def sources(module):
    """Sorted absolute paths of all our files that `module` (dotted name) imports, directly or not, itself included."""
    found, todo = set(), [module]
    while todo:
        path = _locate(todo.pop())
        if path is None or path in found:
            continue
        found.add(path)
        todo.extend(_imports(path))
    return sorted(map(str, found))


def relative_sources(module, base):
    """`sources` as paths relative to the folder `base`, for use as Snakemake inputs."""
    return [str(Path(p).relative_to(base)) if Path(p).is_relative_to(base) else p for p in sources(module)]


@functools.cache
def _locate(module):
    if module.split(".")[0] != PACKAGE:
        return None
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _imports(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)  # `from package import module`
    return tuple(sorted(names))
