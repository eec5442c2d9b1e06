"""Makes the tweaks of tweaks.yaml in a finished checkout, takes them back, and reads what Snakemake says of them."""

import contextlib
import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml
from tests_workflow import REPO, snakemake

from hybrid_lora.common import packages

HERE = Path(__file__).parent
CONFIGS = ("config/tiny.yaml", "tests/workflow/every-rule.yaml")
TABLE = HERE / "tweaks.tsv"
TARGETS = ("all", "contamination", *(f"results/report/{name}.md" for name in ("budgets", "comparisons", "diagnose-tiny")))
CACHE_RULES = ("stage_model", "stage_data")  # fill the hub's cache, when asked for by name; make no result
RULES = [
    name
    for part in re.findall(r'include: "(rules/\S+)"', (REPO / "Snakefile").read_text())
    for name in re.findall(r"^rule (\w+):", (REPO / part).read_text(), re.MULTILINE)
    if name not in CACHE_RULES
]


def tweaks():
    """{name: how it is made}"""
    return yaml.safe_load((HERE / "tweaks.yaml").read_text())


def expected():
    """{name: {rule: number of jobs}} of the table; rules without jobs are left out."""
    with TABLE.open(newline="") as file:
        return {
            row.pop("tweak"): {rule: int(number) for rule, number in row.items() if number}
            for row in csv.DictReader(file, delimiter="\t")
        }


def run(folder, *arguments, configs=(), path=(), check=True):
    """Snakemake with every rule's configuration; configs: laid over it; path: searched for packages before all others."""
    environment = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    files = [*CONFIGS, *configs]
    return snakemake(folder, *arguments, "--", *TARGETS, config=files, check=check, environment=environment, path=path)


def jobs(output):
    """{rule: number of jobs} of a run's or dry run's statistics, targets left out."""
    table = re.search(r"Job stats:\n.*\n-+  -+\n((?:.+\n)+)", output)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {name: int(count) for name, count in rows if name in RULES}


def finished_jobs(output):
    """{rule: number of jobs} that ended well, one by one."""
    found = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", output, re.MULTILINE)
    return {name: found.count(name) for name in found if name in RULES}


@contextlib.contextmanager
def made(tweak, folder):
    """The tweak made in `folder`; gives (folder to look at, arguments for `run`), and takes it back at the end."""
    with contextlib.ExitStack() as stack:
        for name in tweak.get("delete", []):
            stack.enter_context(_away(folder / name))
        for name in tweak.get("code", []):
            stack.enter_context(_written(folder / "workflow/hybrid_lora" / name, lambda old: old + "# edited\n"))
        for name, text in tweak.get("append", {}).items():
            stack.enter_context(_written(folder / name, lambda old, text=text: old + text))
        for name, (old, new) in tweak.get("replace", {}).items():
            stack.enter_context(_written(folder / name, lambda text, old=old, new=new: _replaced(text, old, new)))
        for pattern in tweak.get("touch", []):
            for path in folder.glob(pattern):
                os.utime(path)
        options = {"configs": [], "path": []}
        if "config" in tweak:
            (folder / "tweak.yaml").write_text(yaml.safe_dump(tweak["config"]))
            options["configs"].append("tweak.yaml")
        if "versions" in tweak:
            options["path"].append(_versions(tweak["versions"], folder / "newer-packages"))
        where = stack.enter_context(STEPS[tweak["step"]](folder)) if "step" in tweak else folder
        yield where, tweak.get("arguments", []), options


def _replaced(text, old, new):
    assert old in text, old
    return text.replace(old, new, 1)


@contextlib.contextmanager
def _written(path, change):
    before = path.read_text()
    try:
        path.write_text(change(before))
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def _away(path):
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        aside.rename(path)


def _versions(wanted, folder):
    """A folder that, on the path, makes packages look as if they had these versions."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, version in wanted.items():
        version = str(version).replace("same", (packages.installed(name) or "").partition("+")[0])
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


@contextlib.contextmanager
def _reorder(folder):
    """Every mapping of the configuration files with its keys in reverse."""

    def backwards(value):
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    with contextlib.ExitStack() as stack:
        for name in ("config/config.yaml", "config/tiny.yaml", "tests/workflow/every-rule.yaml"):
            change = lambda old: yaml.safe_dump(backwards(yaml.safe_load(old)), sort_keys=False)  # noqa: E731
            stack.enter_context(_written(folder / name, change))
        yield folder


@contextlib.contextmanager
def _checkout(folder):
    """The checkout is committed, another state is checked out, then this one again: git writes the files anew."""
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost"]

    def do(*words):
        subprocess.run([*git, *words], check=True, capture_output=True)

    do("init", "-q", "-b", "main")
    try:
        do("add", "--all")
        do("commit", "-q", "-m", "all")
        do("checkout", "-q", "--orphan", "empty")
        do("rm", "-rfq", "--", ".")
        do("commit", "-q", "--allow-empty", "-m", "none")
        assert not (folder / "Snakefile").exists()
        do("checkout", "-q", "main")
        yield folder
    finally:
        shutil.rmtree(folder / ".git")


@contextlib.contextmanager
def _moved(folder):
    elsewhere = folder.with_name("moved to another place")
    folder.rename(elsewhere)
    try:
        yield elsewhere
    finally:
        elsewhere.rename(folder)


@contextlib.contextmanager
def _copied(folder):
    """A copy whose files all have new times, in the order of their names backwards."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy, symlinks=True)
    for number, path in enumerate(sorted((p for p in copy.rglob("*") if not p.is_symlink()), reverse=True)):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


STEPS = {"reorder": _reorder, "checkout": _checkout, "move": _moved, "copy": _copied}
