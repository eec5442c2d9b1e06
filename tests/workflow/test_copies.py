"""What a copy of the checkout holds: sources, and no environment, cache or result (a copy with environments is gigabytes)."""

from tests_workflow import REPO, copy_checkout


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_copy_has_sources_and_nothing_made(tmp_path):
    kept = [".ci/run", ".gitignore", "Snakefile", "workflow/data/prompts.py"]
    made = [".venv/a", ".git/HEAD", ".venv-vllm/a", ".snakemake/a", ".carry/a", "results/a", "data/a", "workflow/__pycache__/a"]
    for name in [*kept, *made]:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert files(copy_checkout(tmp_path / "copy", tmp_path / "source")) == kept


def test_a_copy_of_this_checkout_is_small(tmp_path):
    copy = copy_checkout(tmp_path / "copy")
    assert (copy / "Snakefile").is_file() and (copy / ".ci/run").is_file()
    assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) < 64 * 2**20, REPO
