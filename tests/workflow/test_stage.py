"""`snakemake stage` fetches what the runs take from the hub; after it jobs need no network. The hub is one on loopback."""

import json

import pytest
from hub_server import COMMIT, Hub
from samples import conversations
from tests_workflow import copy_checkout, snakemake

CONFIG = """
runs: config/staged.tsv
models: {ours: {source: hub, path: someone/tiny, revision: main}}
corpora:
  tiny:
    data: hub
    format: mixture-of-thoughts
    hub: {repo: someone/traces, revision: REVISION, config: all, split: train}
    prompt: "{prompt}"
    validation_rows: 4
objectives: {grpo: {corpus: tiny, sources: [math]}}
evaluation: {benchmarks: [math-500]}
benchmarks: {math-500: {data: hub, problems: 3, hub: {repo: someone/problems, revision: main, config: all, split: train}}}
"""
MADE = ["results/models/ours/modules.json", "results/data/tiny/train.parquet", "results/data/benchmarks/math-500.parquet"]
CARD = "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: all/train.jsonl\n---\n"


def dataset(folder, rows):
    (folder / "all").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "all/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, model_folder):
    root = tmp_path_factory.mktemp("hub")
    traces = [
        {"messages": row["messages"], "num_tokens": 20, "source": "open-r1/OpenR1-Math-220k", "id": row["id"]}
        for row in conversations(40)
    ]
    problem = {"subject": "Algebra", "level": 1, "solution": "\\boxed{2}", "answer": "2"}
    problems = [{**problem, "problem": f"What is {i}?", "unique_id": f"test/{i}"} for i in range(3)]
    return {
        ("models", "someone/tiny"): model_folder,
        ("datasets", "someone/traces"): dataset(root / "traces", traces),
        ("datasets", "someone/problems"): dataset(root / "problems", problems),
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = copy_checkout(tmp_path / "clone")
    (folder / "config/staged.yaml").write_text(CONFIG.replace("REVISION", COMMIT))
    (folder / "config/staged.tsv").write_text(
        "run\tmodel\tmethod\tobjective\tbudget\tseed\ncot\tours\tcot\t-\t-\t0\nlora\tours\tlora\tgrpo\t-\t0\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return folder


def run(folder, *targets, check=True):
    return snakemake(folder, *targets, config=["config/tiny.yaml", "config/staged.yaml"], check=check)


def test_after_stage_jobs_need_no_network(checkout, repositories, monkeypatch):
    with Hub(repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        run(checkout, "--", "stage")
    notes = {path.stem: json.loads(path.read_text()) for path in (checkout / "results/.state/staged").rglob("*.json")}
    assert notes.keys() == {"ours", "corpus-tiny", "benchmark-math-500"}
    assert notes["ours"]["commit"] == COMMIT
    assert (notes["corpus-tiny"]["rows"], notes["corpus-tiny"]["hub_commit"]) == (40, COMMIT)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # and the hub is gone
    run(checkout, "--", *MADE)
    assert all((checkout / path).exists() for path in MADE)
    assert json.loads((checkout / "results/data/tiny/train.parquet.manifest.json").read_text())["hub_commit"] == COMMIT

    # Another pinned revision is not quietly replaced by the one that is in the cache.
    path = checkout / "config/staged.yaml"
    path.write_text(CONFIG.replace("REVISION", "f" * 40))
    said = run(checkout, "--", MADE[1], check=False).stdout
    assert f"the cache holds revision {COMMIT}; fetch the other one with `snakemake stage`" in said


def test_without_stage_jobs_say_what_is_missing(checkout, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run(checkout, "--keep-going", "--", *MADE[:2], check=False)
    assert done.returncode != 0
    errors = [line for line in done.stdout.splitlines() if line.startswith("hybrid_lora: error:")]
    assert {line.split(":")[2].split("@")[0].split(" (")[0].strip() for line in errors} >= {
        "hub model someone/tiny",
        "hub data set someone/traces",
    }
    assert "Traceback" not in done.stdout


def test_nothing_from_the_hub_is_nothing_to_stage(tmp_path):
    folder = copy_checkout(tmp_path / "clone")
    said = snakemake(folder, "-n", "--", "stage").stdout
    assert "stage_model" not in said and "stage_data" not in said
