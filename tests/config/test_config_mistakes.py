"""Each mistake gives one line that names the file, the key, and what would do."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load

REPO = Path(__file__).resolve().parents[2]
MINE, RUNS = "config/mine.yaml", "config/demo.tsv"
HEADER = "run\tmodel\tmethod\tobjective\tbudget\tseed\n"
HYBRID = "hybrid\tdemo\thybrid\tgspo\t0.1\t0\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with our config/ in it, as a user's checkout has."""
    shutil.copytree(REPO / "config", tmp_path / "config")
    return tmp_path


def load_demo(folder, overlay=None, table=None, assignments=()):
    """config.yaml, demo.yaml and `overlay` (as config/mine.yaml) merged and loaded; `table` replaces the demo's runs."""
    if table is not None:
        (folder / RUNS).write_text(table, encoding="utf-8")
    (folder / MINE).write_text(yaml.safe_dump(overlay or {"grading": {}}), encoding="utf-8")
    files = ["config/config.yaml", "config/demo.yaml", MINE]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(folder / file))
    return load(layers.merge(values, layers.command_line(assignments)), files, folder)


def complaint(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        load_demo(*args, **kwargs)
    return str(caught.value)


def nested(path, value):
    """{a: {b: value}} for "a.b"."""
    for key in reversed(path.split("/")):
        value = {key: value}
    return value


# id: (where in the overlay, value, dotted key of the message, phrase)
VALUES = {
    "unknown section": ("modles", {}, "modles", "unknown key; allowed: runs, data_dir, models"),
    "unknown section, close": ("benchmark", {}, "benchmark", "did you mean 'benchmarks'?"),
    "unknown key": ("objectives/gspo/group_sise", 4, "objectives.gspo.group_sise", "did you mean 'group_size'?"),
    "key of another algorithm": ("objectives/sft/clip", 0.2, "objectives.sft.clip", "unknown key"),
    "key of another placement": ("methods/lora/criterion", "hybrid", "methods.lora.criterion", "allowed: placement, prompt"),
    "key of another source": ("models/demo/revision", "main", "models.demo.revision", "unknown key; allowed: source, corpus"),
    "unknown algorithm": ("objectives/gspo/algorithm", "ppo", "objectives.gspo.algorithm", "allowed: sft, grpo, gspo"),
    "unknown precision": ("objectives/gspo/precision", "bf61", "objectives.gspo.precision", "did you mean 'bf16'?"),
    "unknown mode of vllm": ("objectives/gspo/vllm/mode", "colocated", "objectives.gspo.vllm.mode", "allowed: colocate, server"),
    "no memory for vllm": (
        "objectives/gspo/vllm/gpu_memory_utilization",
        0,
        "objectives.gspo.vllm.gpu_memory_utilization",
        "more than 0",
    ),
    "unknown correction": (
        "objectives/gspo/vllm/importance_correction",
        "sequence",
        "objectives.gspo.vllm.importance_correction",
        "allowed: token, none",
    ),
    "port of a server": ("objectives/gspo/vllm/group_port", 70000, "objectives.gspo.vllm.group_port", "must be at most 65535"),
    "address of a server": ("objectives/gspo/vllm/server", 8000, "objectives.gspo.vllm.server", "must be text"),
    "unknown corpus of programs": (
        "objectives/gspo/code_corpus",
        "leetcod",
        "objectives.gspo.code_corpus",
        "did you mean 'leetcode'?",
    ),
    "unknown advantage": ("objectives/gspo/advantage", "eq_18", "objectives.gspo.advantage", "did you mean 'eq18'?"),
    "no epsilon": ("objectives/gspo/advantage_epsilon", 0, "objectives.gspo.advantage_epsilon", "must be more than 0"),
    "unknown dtype of a training": ("objectives/sft/dtype", "bf16", "objectives.sft.dtype", "allowed: bfloat16, float32"),
    "bfloat16 without autocast": ("objectives/gspo/dtype", "bfloat16", "objectives.gspo.dtype", "needs precision: bf16"),
    "samples of a fraction": ("objectives/gspo/samples/count", 0.5, "objectives.gspo.samples.count", "must be a whole number"),
    "no steps between samples": ("objectives/gspo/samples/every", 0, "objectives.gspo.samples.every", "must be at least 1"),
    "reward as metric of sft": ("objectives/sft/validation/metric", "reward", "objectives.sft.validation.metric", "allowed: nll"),
    "unknown place to report to": ("logging/report_to", ["mlflow"], "logging.report_to[0]", "allowed: tensorboard, wandb"),
    "unknown mode of wandb": ("logging/wandb_mode", "on", "logging.wandb_mode", "allowed: offline, online"),
    "no patience": ("logging/variance_patience", 0, "logging.variance_patience", "must be at least 1"),
    "unknown criterion": ("methods/hybrid/criterion", "hybird", "methods.hybrid.criterion", "did you mean 'hybrid'?"),
    "method without a placement": ("methods/mine", {"prompt": "cot"}, "methods.mine.placement", "is missing"),
    "unknown placement": (
        "methods/lora/placement",
        "some",
        "methods.lora.placement",
        "allowed: none, full, lora, lora-ffn, criterion",
    ),
    "unknown source of a model": ("models/demo/source", "web", "models.demo.source", "allowed: hub, local, scratch"),
    "unknown backend": ("evaluation/backend", "sglang", "evaluation.backend", "allowed: vllm, transformers"),
    "unknown sandbox": ("grading/sandbox", "docker", "grading.sandbox", "allowed: bubblewrap, limits, auto"),
    "unknown format": ("benchmarks/gpqa/format", "gqpa", "benchmarks.gpqa.format", "did you mean 'gpqa'?"),
    "unknown benchmark": (
        "evaluation/benchmarks",
        ["math-500", "math500"],
        "evaluation.benchmarks[1]",
        "did you mean 'math-500'?",
    ),
    "benchmark twice": ("evaluation/benchmarks", ["gpqa", "gpqa"], "evaluation.benchmarks", "names 'gpqa' twice"),
    "no benchmark": ("evaluation/benchmarks", [], "evaluation.benchmarks", "must hold at least 1 entry"),
    "unknown unit": ("allocation/unit", "percent", "allocation.unit", "allowed: params, modules, absolute"),
    "text for a number": ("objectives/gspo/kl", "1e-2", "objectives.gspo.kl", "write 1.0e-6"),
    "fraction for a whole number": ("objectives/gspo/steps", 1.5, "objectives.gspo.steps", "is 1.5, must be a whole number"),
    "true for a number": ("probes/default/rank", True, "probes.default.rank", "is true, must be a whole number"),
    "list for a mapping": ("probes/default/warmup", [60], "probes.default.warmup", "must be a mapping"),
    "null for a number": ("benchmarks/gpqa/problems", None, "benchmarks.gpqa.problems", "is null, must be a whole number"),
    "infinite number": ("objectives/gspo/clip", float("inf"), "objectives.gspo.clip", "must be a number"),
    "zero steps": ("objectives/gspo/steps", 0, "objectives.gspo.steps", "is 0, must be at least 1"),
    "negative seed": ("probes/default/warmup/seed", -1, "probes.default.warmup.seed", "must be at least 0"),
    "group of one": ("objectives/gspo/group_size", 1, "objectives.gspo.group_size", "must be at least 2"),
    "probability of one": ("probes/default/sensitivity/probability", 1, "probes.default.sensitivity.probability", "less than 1"),
    "share above one": ("corpora/demo/generated/wrong_steps", 1.3, "corpora.demo.generated.wrong_steps", "must be at most 1"),
    "vocabulary below the bytes": ("models/demo/tokenizer/vocab_size", 100, "models.demo.tokenizer.vocab_size", "at least 259"),
    "hub id without an owner": ("models/qwen2.5-3b/path", "Qwen", "models.qwen2.5-3b.path", "owner/name"),
    "hub model without a revision": (
        "models/other",
        {"source": "hub", "path": "a/b"},
        "models.other.revision",
        "is missing",
    ),
    "model without a source": ("models/a", {}, "models.a.source", "is missing"),
    "entry name with a slash": ("methods", {"a/b": {"placement": "full", "prompt": "cot"}}, "methods.a/b", "letters, digits"),
    "colour by name": ("report/figure2/full_colour", "red", "report.figure2.full_colour", "a colour such as"),
    "figure of an unknown run": ("report/figure2/runs", ["hybird"], "report.figure2.runs[0]", "did you mean 'hybrid'?"),
    "figure of a run without allocation": ("report/figure2/runs", ["cot"], "report.figure2.runs[0]", "allowed: hybrid"),
    "template with a stray brace": ("benchmarks/gpqa/prompts/cot", "{Question", "benchmarks.gpqa.prompts.cot", "{{ and }}"),
    "template with an unescaped box": (
        "benchmarks/math-500/prompts/cot",
        "{problem} in \\boxed{}",
        "benchmarks.math-500.prompts.cot",
        "'{}' names no field",
    ),
    "prompt that a benchmark lacks": (
        "methods/cot/prompt",
        "cott",
        "benchmarks.math-500.prompts",
        "'cott' of method 'cot'",
    ),
    "unknown probe": ("methods/hybrid/probe", "long", "methods.hybrid.probe", "probe 'long' is not known; allowed: default"),
    "unknown corpus of an objective": ("objectives/gspo/corpus", "dmeo", "objectives.gspo.corpus", "did you mean 'demo'?"),
    "unknown corpus of a probe": ("probes/default/corpus", "web", "probes.default.corpus", "corpus 'web' is not known"),
    "unknown corpus of a model": ("models/demo/corpus", "web", "models.demo.corpus", "corpus 'web' is not known"),
    "heads that do not divide": (
        "models/demo/architecture/num_attention_heads",
        3,
        "models.demo.architecture.hidden_size",
        "multiple of num_attention_heads, 3",
    ),
    "k above samples": ("benchmarks/aime-24/samples", 2, "benchmarks.aime-24.k", "is 4, must be at most samples, 2"),
    "equal samples": ("benchmarks/aime-24/temperature", 0, "benchmarks.aime-24.temperature", "must be above 0"),
    "generation that does not divide": (
        "objectives/gspo/device_batch_size",
        48,
        "objectives.gspo.prompts_per_generation",
        "multiple of updates_per_generation * device_batch_size, 96",
    ),
    "save inside a generation": (
        "objectives/gspo/save_every",
        3,
        "objectives.gspo.save_every",
        "multiple of updates_per_generation",
    ),
    "no reward": (
        "objectives/gspo/rewards",
        {"accuracy": 0, "format": 0, "length": 0},
        "objectives.gspo.rewards",
        "all weights are 0",
    ),
    "chunks that do not divide": (
        "probes/default/sensitivity/batches_per_chunk",
        3,
        "probes.default.sensitivity.batches_per_chunk",
        "must divide partitions, 20",
    ),
    "too few validation rows": ("corpora/demo/validation_rows", 100, "corpora.demo.validation_rows", "160 rows"),
    "missing corpus file": ("corpora/demo/data", "no/such.jsonl", "corpora.demo.data", "no such file: no/such.jsonl"),
    "missing benchmark file": ("benchmarks/gpqa/data", "gpqa.csv", "benchmarks.gpqa.data", "looked up in data_dir (data)"),
    "misspelt kind of data": ("corpora/demo/data", "generatd", "corpora.demo.data", "did you mean 'generated'?"),
    "generated corpus of another format": ("corpora/demo/format", "gsm8k", "corpora.demo.format", "must be mixture-of-thoughts"),
    "keys left over from another source": (
        "models",
        {"demo": {"source": "local", "path": "x"}},
        "models.demo.corpus",
        "unknown key; allowed: source, path",
    ),
    "missing runs table": ("runs", "config/none.tsv", "runs", "no such file: config/none.tsv"),
}
# The file of the message is where the key of the message stands.
ELSEWHERE = {
    "keys left over from another source": "config/demo.yaml",
    "prompt that a benchmark lacks": "config/demo.yaml",
    "heads that do not divide": "config/demo.yaml",
    "k above samples": "config/config.yaml",
    "generation that does not divide": "config/demo.yaml",
}


@pytest.mark.parametrize("name", VALUES)
def test_mistake_in_a_value(folder, name):
    path, value, key, phrase = VALUES[name]
    message = complaint(folder, nested(path, value))
    assert message.startswith(f"{ELSEWHERE.get(name, MINE)}: {key}: ")
    assert phrase in message
    assert "\n" not in message


# id: (lines of the table, line and column of the message, phrase)
TABLES = {
    "run name used twice": (HEADER + HYBRID + HYBRID, ":3: run: ", "'hybrid' is used twice, first in line 2"),
    "run name with a slash": (HEADER + HYBRID.replace("hybrid\tdemo", "a/b\tdemo"), ":2: run: ", "letters, digits"),
    "unknown model": (HEADER + HYBRID.replace("demo", "demmo"), ":2: model: ", "did you mean 'demo'?"),
    "unknown method": (HEADER + "a\tdemo\thybird\tgspo\t0.1\t0\n", ":2: method: ", "did you mean 'hybrid'?"),
    "unknown objective": (HEADER + HYBRID.replace("gspo", "gsop"), ":2: objective: ", "did you mean 'gspo'?"),
    "training of an untrained method": (HEADER + "a\tdemo\tcot\tgspo\t-\t0\n", ":2: objective: ", "must be '-'"),
    "trained method without an objective": (HEADER + "a\tdemo\tlora\t-\t-\t0\n", ":2: objective: ", "allowed: sft, grpo, gspo"),
    "criterion without a budget": (HEADER + "a\tdemo\thybrid\tgspo\t-\t0\n", ":2: budget: ", "needs a budget"),
    "budget without a criterion": (HEADER + "a\tdemo\tlora\tgspo\t0.1\t0\n", ":2: budget: ", "must be '-'"),
    "budget above one": (HEADER + HYBRID.replace("0.1", "10"), ":2: budget: ", "above 0 and at most 1"),
    "budget of zero": (HEADER + HYBRID.replace("0.1", "0"), ":2: budget: ", "above 0 and at most 1"),
    "budget that is no number": (HEADER + HYBRID.replace("0.1", "10%"), ":2: budget: ", "'10%' is no number"),
    "budget nan": (HEADER + HYBRID.replace("0.1", "nan"), ":2: budget: ", "nan is no share"),
    "seed that is no number": (HEADER + HYBRID.replace("\t0\n", "\tx\n"), ":2: seed: ", "'x' is no whole number"),
    "empty cell": (HEADER + HYBRID.replace("gspo", ""), ":2: objective: ", "write '-' for none"),
    "too few cells": (HEADER + "a\tdemo\tcot\n", ":2: ", "3 cells, the header has 6"),
    "spaces for tabs": (HEADER.replace("\t", " ") + HYBRID, ":1: ", "separated by tabs"),
    "unknown column": (HEADER.replace("seed", "sead") + HYBRID, ":1: ", "did you mean 'seed'?"),
    "missing column": (HEADER.replace("\tseed", "") + HYBRID, ":1: ", "column 'seed' is missing"),
    "no runs": (HEADER, ": ", "no runs; add a line"),
    "empty table": ("", ": ", "empty; the first line names the columns"),
}


@pytest.mark.parametrize("name", TABLES)
def test_mistake_in_the_runs_table(folder, name):
    table, place, phrase = TABLES[name]
    message = complaint(folder, table=table)
    assert message.startswith(RUNS + place)
    assert phrase in message
    assert "\n" not in message


def test_absolute_budget_is_a_number_of_parameters(folder):
    absolute = {"allocation": {"unit": "absolute"}}
    assert "'0.1' is no number of parameters" in complaint(folder, absolute)
    assert load_demo(folder, absolute, HEADER + HYBRID.replace("0.1", "50000")).runs[0].budget == 50000


def test_local_model_without_its_folder(folder):
    overlay = {"models": {"mine": {"source": "local", "path": "models/mine"}}}
    table = HEADER + HYBRID.replace("demo", "mine")
    message = complaint(folder, overlay, table)
    assert message.startswith(f"{MINE}: models.mine.path: no such folder: models/mine")
    (folder / "models/mine").mkdir(parents=True)
    assert "holds no config.json" in complaint(folder, overlay, table)
    (folder / "models/mine/config.json").write_text("{}")
    assert load_demo(folder, overlay, table).runs[0].model == "mine"


def test_sft_batch_that_does_not_divide(folder):
    message = complaint(folder, {"objectives": {"sft": {"batch_size": 33}}}, HEADER + "a\tdemo\tlora\tsft\t-\t0\n")
    assert message.startswith(f"{MINE}: objectives.sft.batch_size: is 33, must be a multiple of device_batch_size, 32")


def test_unused_entries_are_not_looked_into(folder):
    overlay = {
        "corpora": {"mixture-of-thoughts": {"data": "not/here.jsonl"}},
        "objectives": {"sft": {"corpus": "nowhere"}, "grpo": {"save_every": 3}},
        "models": {"gone": {"source": "local", "path": "gone"}},
        "methods": {"lora": {"prompt": "none-has-it"}},
    }
    assert [run.run for run in load_demo(folder, overlay).runs] == ["io", "cot", "hybrid"]


def test_message_names_the_command_line(folder):
    message = complaint(folder, assignments=["evaluation={backend: sglang}"])
    assert message.startswith("--config: evaluation.backend: 'sglang' is not known")
    assert complaint(folder, assignments=["dat_dir=x"]).startswith("--config: dat_dir: unknown key")


def test_key_that_is_no_text(folder):
    assert "models.2024: the key 2024 is no text; put it in quotes" in complaint(folder, {"models": {2024: {}}})


def test_missing_section(folder):
    with pytest.raises(UserError, match=r"^config/config\.yaml: corpora: is missing$"):
        values = layers.read_yaml(folder / "config/config.yaml")
        del values["corpora"]
        load(values, ["config/config.yaml"], folder)


def test_package_to_report_to_is_missing(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = complaint(folder, {"logging": {"report_to": ["tensorboard"]}})
    assert (
        found
        == f"{MINE}: logging.report_to[0]: tensorboard is not installed here; pip install tensorboard, or take it out of the list"
    )


def test_engine_without_room_for_a_prompt(folder):
    changed = {"rollouts": "vllm", "vllm": {"max_model_len": 48}}
    found = complaint(folder, {"objectives": {"gspo": changed}})
    assert "objectives.gspo.vllm.max_model_len: is 48, must be more than max_completion_tokens, 48" in found


def test_programs_that_no_source_asks_for(folder):
    found = complaint(folder, {"objectives": {"gspo": {"code_corpus": "demo", "sources": ["math"]}}})
    assert "objectives.gspo.code_corpus: is demo, but sources (math) lacks code: no row of it is used" in found


@pytest.mark.parametrize("corpus, change, found", [
    ("gsm8k", {"sources": ["code"]}, r"sources: is \[code\], of which corpus mine has nothing .*; allowed: math"),
    ("leetcode", {"sources": ["math"]}, r"sources: is \[math\], of which corpus mine has nothing .*; allowed: code"),
    ("gsm8k", {"sources": ["math", "code"], "code_corpus": "mine"}, r"code_corpus: is the objective.s corpus, whose code"),
    ("gsm8k", {"sources": ["math", "code"], "code_corpus": "other"}, r"code_corpus: is other, which has no programs with"),
])  # fmt: skip
def test_rewards_that_nothing_could_be_verified_for(corpus, change, found, folder):
    """Before the probe, not when the training begins."""
    data = {"data": "hub", "hub": {"repo": "a/b", "revision": "0" * 40, "config": "main", "split": "train"}, "prompt": "{prompt}"}
    corpora = {"mine": data | {"format": corpus}, "other": data | {"format": "gsm8k"}}
    said = complaint(folder, {"corpora": corpora, "objectives": {"gspo": {"corpus": "mine", **change}}})
    assert re.search(rf"objectives\.gspo\.{found}", said), said
