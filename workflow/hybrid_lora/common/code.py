"""Which of our Python files a command runs: the static closure of its imports, read with `ast`, nothing is imported.

Snakemake does not see that a module imported by `python -m` was edited. Rules therefore list these files as
`input: code=`, and manifests record their hashes; both come from here, so they cannot disagree.

A command that runs one of several modules by a setting says so in a literal of its own, and the others are left out:

    CHOICES = {"backend": {"vllm": ["hybrid_lora.evaluation.vllm_backend"], "transformers": [...]}}

The key is the dotted path of a setting (a value or a list of them), each value lists what runs for it: our modules, or names
of other packages.
"""

import ast
import functools
from pathlib import Path

PACKAGE = "hybrid_lora"
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


def sources(module, settings=None):
    """Sorted absolute paths of all our files that `module` (dotted name) imports, directly or not, itself included.

    Files without a statement are left out. settings: of the job; without them every choice counts.
    """
    return list(_closure(module, _chosen(module, settings)[0]))


def relative_sources(module, base, settings=None):
    """`sources` as paths relative to the folder `base`, for use as Snakemake inputs."""
    return list(_relative(module, str(base), _chosen(module, settings)[0]))


def foreign(module, settings=None):
    """Sorted top-level names of what these files import that is not ours, and of what the settings choose."""
    left_out, added = _chosen(module, settings)
    return sorted(set(added).union(*(_foreign(Path(path)) for path in _closure(module, left_out))))


@functools.cache
def _relative(module, base, left_out):
    found = _closure(module, left_out)
    return tuple(str(Path(p).relative_to(base)) if Path(p).is_relative_to(base) else p for p in found)


@functools.cache
def _closure(module, left_out):
    found, seen, todo = set(), set(), [module]
    while todo:
        name = todo.pop()
        path = None if name in left_out else _locate(name)
        if path is None or path in seen:
            continue
        seen.add(path)
        if _does_something(path):
            found.add(path)
        todo.extend(name for name in _imports(path) if name.startswith(f"{PACKAGE}."))
    return tuple(sorted(map(str, found)))


def _chosen(module, settings):
    """(our modules that the settings rule out, names of other packages that they choose)."""
    left_out, added = set(), set()
    for key, choices in (_choices(_locate(module)) if settings is not None else {}).items():
        value = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        values = value if isinstance(value, list) else [value]
        if all(isinstance(each, str) and each in choices for each in values):
            chosen = set().union(*(choices[each] for each in values))
            left_out |= set().union(*choices.values()) - chosen
            added |= {name for name in chosen if not name.startswith(f"{PACKAGE}.")}
    return frozenset(left_out), frozenset(added)


@functools.cache
def _choices(path):
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["CHOICES"]:
            return ast.literal_eval(node.value)
    return {}


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
def _does_something(path):
    """False for a file that holds a docstring alone, as most __init__.py do: a third of a job's inputs."""
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in _tree(path).body)


@functools.cache
def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(path):
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)  # `from package import module`
    return tuple(sorted(names))


@functools.cache
def _foreign(path):
    return frozenset(name.split(".")[0] for name in _imports(path)) - {PACKAGE}
