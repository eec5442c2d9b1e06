"""Our own files: they load, every key is explained, defaults are the paper's settings."""

import copy
import re
import time
from pathlib import Path

import pytest
import yaml

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load, schema

REPO = Path(__file__).resolve().parents[2]
MAIN = REPO / "config/config.yaml"
ENTRIES = ("models", "corpora", "probes", "methods", "objectives", "benchmarks")  # sections whose keys are names of our own
OVERLAYS = sorted(p.name for p in (REPO / "config").glob("*.yaml") if p.name not in ("config.yaml", "schema.yaml"))


def load_with(overlay=None, **extra):
    files = ["config/config.yaml", *([f"config/{overlay}"] if overlay else [])]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    return load(layers.merge(values, extra), files, REPO)


def gsm8k_folder():
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not here")
    return {"data_dir": str(folder)}


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_our_configurations_load(overlay):
    extra = gsm8k_folder() if overlay == "gsm8k.yaml" else {}
    config = load_with(overlay, **extra)
    assert len({run.run for run in config.runs}) == len(config.runs) >= 2


def test_all_demo_runs_load():
    config = load_with("demo.yaml", runs="config/demo-all.tsv")
    seeds = {}
    for run in config.runs:
        if run.objective:
            seeds.setdefault((run.method, run.objective, run.budget), set()).add(run.seed)
    assert len(seeds) == 4
    assert all(found == ({0, 1, 2} if method == "hybrid" else {0}) for (method, *_), found in seeds.items())


def test_gsm8k_without_its_files_says_which():
    with pytest.raises(UserError, match=r"^config/gsm8k\.yaml: corpora\.gsm8k\.data: no such file: gsm8k/train\.jsonl\.gz"):
        load_with("gsm8k.yaml", data_dir="nowhere")


def test_loading_is_fast():
    load_with()
    began = time.process_time()
    load_with()
    assert time.process_time() - began < 0.3


def test_settings_that_the_paper_gives():
    values = load_with().values
    probe, grpo = values["probes"]["default"], values["objectives"]["grpo"]
    assert (probe["rank"], probe["warmup"]["steps"]) == (16, 500)
    assert (probe["sensitivity"]["partitions"], probe["sensitivity"]["probability"]) == (20, 0.5)
    assert values["allocation"]["lora"]["rank"] == 16
    for objective in values["objectives"].values():
        assert objective["learning_rate"] == {"full": 1e-6, "lora": 2.5e-5}
        assert objective["validation"]["every"] == 50
    assert (grpo["temperature"], grpo["group_size"], grpo["clip"], grpo["kl"]) == (1.0, 4, 0.2, 0.01)
    assert {**values["objectives"]["gspo"], "algorithm": "grpo"} == grpo
    problems = {name: (entry["problems"], entry["k"], entry["samples"]) for name, entry in values["benchmarks"].items()}
    assert problems == {
        "math-500": (500, 1, 1),
        "aime-24": (30, 4, 4),
        "aime-25": (30, 4, 4),
        "mmlu-pro": (12032, 1, 1),
        "gpqa": (198, 1, 1),
        "leetcode": (228, 4, 4),
    }
    assert {run.budget for run in load_with().runs if run.method == "hybrid"} == {0.1}


def paths(value, path=()):
    """Paths of all keys below `value`, mappings and leaves."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from paths(inner, (*path, key))


def test_defaults_equal_the_values_in_config_yaml():
    """A key of config.yaml that may be left out comes back as it stands there."""
    values = layers.read_yaml(MAIN)
    restored, origin = [], layers.Origin(values, [], REPO)
    for path in paths(values):
        if len(path) == 2 and path[0] in ENTRIES:
            continue  # an entry of the user's own
        less = copy.deepcopy(values)
        parent = less
        for key in path[:-1]:
            parent = parent[key]
        wanted = parent.pop(path[-1])
        try:
            found = schema.fill(less, origin)
        except UserError as error:
            assert "is missing" in str(error)
            continue
        for key in path[:-1]:
            found = found[key]
        if path[-1] in found:
            assert found[path[-1]] == wanted, f"default of {layers.dotted(path)}"
            restored.append(path)
    assert len(restored) > 100


def key_nodes(node, path=(), seen=None):
    """(path, line) of every key as written, aliases once."""
    seen = set() if seen is None else seen
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    for key, value in node.value:
        if key.value != "<<":
            yield (*path, key.value), key.start_mark.line
            yield from key_nodes(value, (*path, key.value), seen)


def comment(lines, line):
    """The comment on a line, or the comment lines right above it; None if there is neither."""
    found = re.search(r"\s# (.*)$", lines[line])
    if found:
        return found[1]
    above = []
    while line and lines[line - 1].lstrip().startswith("# "):
        line -= 1
        above.insert(0, lines[line].strip())
    return " ".join(above) or None


def keys_of_config():
    """(path, generic path, value is a leaf, comment) for every key in config.yaml, in the order of the file."""
    text = MAIN.read_text(encoding="utf-8")
    lines, values = text.splitlines(), yaml.safe_load(text)
    for path, line in key_nodes(yaml.compose(text)):
        value = values
        for key in path:
            value = value[key]
        generic = (path[0], "*", *path[2:]) if path[0] in ENTRIES and len(path) > 1 else path
        yield path, generic, not isinstance(value, dict), comment(lines, line)


def test_every_key_is_explained_where_it_stands_first():
    seen = set()
    for path, generic, _, said in keys_of_config():
        is_entry = path[0] in ENTRIES and len(path) == 2
        assert said or (generic in seen and not is_entry), f"{layers.dotted(path)} has no comment"
        seen.add(generic)
    assert len(seen) > 100


def test_every_setting_says_whether_it_is_the_papers():
    seen = set()
    for path, generic, leaf, said in keys_of_config():
        if leaf and generic not in seen:
            marks = re.findall(r"\[(paper (?:\d|[A-Z])[^\]]*|not in the paper: [^\]]+)\]", said or "")
            assert marks, f"{layers.dotted(path)} has no mark [paper ...] or [not in the paper: why]"
        seen.add(generic)


def test_the_schema_is_closed():
    """Every mapping either lists its keys or takes names of the user's own."""

    def mappings(rule, where):
        if isinstance(rule, dict):
            own = rule.get("properties")
            discriminated = any(key in rule for key in ("if", "allOf")) and "additionalProperties" not in rule
            if isinstance(own, dict) and where[-1:] != ["if"] and not discriminated:
                yield where, rule
            for key, inner in rule.items():
                yield from mappings(inner, [*where, key])
        elif isinstance(rule, list):
            for inner in rule:
                yield from mappings(inner, where)

    found = list(mappings(yaml.safe_load(schema.PATH.read_text()), []))
    assert len(found) > 20
    for where, rule in found:
        assert rule.get("additionalProperties") is False, "/".join(where)


def test_criteria_are_those_that_the_scores_stage_has():
    from hybrid_lora.scores import criteria

    allowed = yaml.safe_load(schema.PATH.read_text())["$defs"]["criterion"]["enum"]
    assert set(allowed) == set(criteria.CRITERIA)
    assert {m["criterion"] for m in load_with().values["methods"].values() if m["placement"] == "criterion"} == set(allowed)


def test_kinds_of_files_are_those_that_the_data_stage_reads():
    from hybrid_lora.config import paths as local
    from hybrid_lora.data import sources

    assert set(local.SUFFIXES) == set(sources.ENDINGS)


def test_gsm8k_model_has_about_ten_million_parameters():
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    entry = layers.read_yaml(REPO / "config/gsm8k.yaml")["models"]["gsm8k-10m"]
    shape = Qwen2Config(vocab_size=entry["tokenizer"]["vocab_size"], tie_word_embeddings=True, **entry["architecture"])
    with torch.device("meta"):
        model = Qwen2ForCausalLM(shape)
    assert model.num_parameters() == 10_002_688
