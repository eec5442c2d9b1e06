"""`hybrid_lora plan`: what it prints for the repository's own configurations, and what it refuses."""

import json
import re

import pytest
import torch
from peft import get_peft_model

from hybrid_lora.__main__ import main
from hybrid_lora.allocation import shapes
from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import candidates, hybrid, load
from hybrid_lora.plan import architecture, hours, training
from hybrid_lora.plan.gpus import GIB, GPUS

ALLOCATION = {"unit": "params", "overflow": "stop", "lora": {"rank": 16}}
HUB = {"source": "hub", "path": "Qwen/Qwen2.5-7B-Instruct", "revision": "a09a35458c702b33eeacc393d103063234e8bc28"}
RL = {
    "algorithm": "gspo",
    "steps": 100,
    "prompts_per_generation": 128,
    "updates_per_generation": 4,
    "iterations": 1,
    "group_size": 4,
    "kl": 0.01,
    "max_completion_tokens": 4096,
    "rollouts": "vllm",
    "device_batch_size": 1,
    "precision": "bf16",
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "validation": {"every": 50, "rows": 256},
}


@pytest.fixture(autouse=True)
def at_home(repo, monkeypatch):
    monkeypatch.chdir(repo)


@pytest.fixture(scope="module")
def seven():
    return architecture.of_model(shapes.model("7B"), "here")


def plan(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def gib(text, part):
    return float(re.search(rf"^  {re.escape(part)} +([\d.]+) GiB$", text, re.MULTILINE)[1])


def test_the_papers_hybrid_run(capsys):
    text = plan(capsys, "--run", "1.5b-gspo-hybrid")
    assert "shape: 1,543,714,304 parameters, 28 layers, from the published shape of Qwen2.5 1.5B" in text
    assert "128 sequences, 589,824 tokens (prompts of 512 tokens assumed" in text
    assert "512 completions are sampled for every 4 steps, 2,097,152 tokens" in text
    assert gib(text, "frozen weights") == pytest.approx(2 * 1543714304 / GIB, abs=0.01)
    trained = int(re.search(r"together +([\d,]+) ", text)[1].replace(",", ""))
    assert gib(text, "optimizer") == pytest.approx(8 * trained / GIB, abs=0.01)
    assert gib(text, "trained weights") == pytest.approx(4 * trained / GIB, abs=0.01)
    assert gib(text, "vLLM") == pytest.approx(0.3 * 79.2, abs=0.05)
    for stage in ("warm-up", "sensitivities, two masked passes", "gspo", "math-500, aime-24"):
        assert re.search(rf"{stage}.* [\d.]+$", text, re.MULTILINE), stage
    assert "perturbation" not in text.split("GPU-hours")[1]
    assert "training state, 2 checkpoints kept" in text
    assert "not allocated yet: a random ranking stands for" in text


def test_full_fine_tuning_needs_a_second_model_for_the_kl_term(capsys):
    text = plan(capsys, "--run", "1.5b-gspo-full-ft")
    assert gib(text, "reference model") == gib(text, "trained weights") == pytest.approx(4 * 1543714304 / GIB, abs=0.01)
    assert "frozen weights" not in text and "not allocated yet" not in text and "probe " not in text
    without = plan(capsys, "--run", "1.5b-gspo-full-ft", "--config", "objectives={gspo: {kl: 0}}")
    assert "reference model" not in without


def test_criteria_bring_their_own_stages(capsys):
    text = plan(capsys, "--run", "1.5b-gspo-hybrid", "--method", "perturbation").split("GPU-hours")[1]
    assert "perturbation, 197 passes a batch" in text
    text = plan(capsys, "--run", "1.5b-gspo-hybrid", "--method", "hybrid-4").split("GPU-hours")[1]
    assert "full warm-up" in text and "sensitivities of full fine-tuning" in text
    text = plan(capsys, "--run", "1.5b-gspo-hybrid", "--method", "random").split("GPU-hours")[1]
    assert "warm-up" not in text


def test_untrained_runs_are_evaluated_only(capsys):
    text = plan(capsys, "--run", "1.5b-cot")
    assert "trained parameters" not in text and "memory of a GPU in training" not in text and "evaluation" in text


def test_a_method_that_trains_nothing_is_not_planned_as_lora(capsys):
    text = plan(capsys, "--run", "1.5b-gspo-hybrid", "--method", "cot")
    assert text.startswith("1.5b-gspo-hybrid: qwen2.5-1.5b, cot, untrained\n")
    assert "trained parameters" not in text and "training state" not in text and "gspo" not in text.split("GPU-hours")[1]


def test_a_warm_up_by_reinforcement_learning_counts(capsys):
    change = "probes={default: {warmup: {objective: gspo}}}"
    text = plan(capsys, "--run", "1.5b-gspo-hybrid", "--config", change)
    warm, trained = (
        float(re.search(rf"^  {what} +([\d.]+)$", text, re.MULTILINE)[1]) for what in ("probe +warm-up by gspo", "training +gspo")
    )
    assert warm == pytest.approx(trained / 2, rel=0.15)  # 500 of 1,000 steps; the rest differs little from the rollouts
    assert "probe" in plan(capsys, "--run", "1.5b-gspo-hybrid", "--method", "hybrid-4", "--config", change)


def test_disk_holds_every_stage_at_its_most(capsys):
    """A state is written beside those that are kept; AdaLoRA keeps averages of its weights."""
    text = plan(capsys, "--run", "1.5b-gspo-hybrid-4").split("disk")[1]
    assert disk(text, "corpus mixture-of-thoughts") == pytest.approx(2.5 * 349317 * 16384, rel=0.01)
    assert disk(text, "its resumable state, 2 checkpoints kept") == pytest.approx(3 * 12 * 1543714304, rel=0.01)
    text = plan(capsys, "--run", "1.5b-gspo-adalora").split("disk")[1]
    shape = architecture.of_model(shapes.model("1.5B"), "here")
    lora = sum(24 * (c.in_features + c.out_features + 1) for c in shape.candidates)
    assert disk(text, "AdaLoRA's resumable state") == pytest.approx(3 * 24 * lora, rel=0.01)
    text = plan(capsys, "--run", "hybrid", "--configfile", "config/demo.yaml").split("disk")[1]
    assert disk(text, "model") == pytest.approx(4 * 655872, rel=0.02)
    more = "objectives={gspo: {sources: [math, code], code_corpus: leetcode}}"
    assert re.search(r"^  corpus leetcode +unknown$", plan(capsys, "--run", "1.5b-gspo-lora", "--config", more), re.MULTILINE)
    few = plan(capsys, "--run", "1.5b-gspo-lora", "--config", more, "corpora={leetcode: {max_rows: 1000, validation_rows: 24}}")
    assert disk(few, "corpus leetcode") == pytest.approx(2.5 * 1024 * 16384, rel=0.01)


def disk(text, what):
    size, unit = re.search(rf"^  {re.escape(what)} +([\d.,]+) (\w+)$", text, re.MULTILINE).groups()
    return float(size.replace(",", "")) * {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}[unit]


def test_the_demo_has_no_gpu(capsys):
    text = plan(capsys, "--run", "hybrid", "--configfile", "config/demo.yaml")
    assert "shape: 655,872 parameters" in text or "parameters, 4 layers, from the configuration" in text
    assert "GPU-hours: none, compute.gpus is 0" in text


def test_an_allocation_that_is_there_counts(tmp_path, repo, monkeypatch, capsys):
    (tmp_path / "config").symlink_to(repo / "config")
    monkeypatch.chdir(tmp_path)
    shape = architecture.of_model(shapes.model("1.5B"), "here")
    fft = [c.module for c in shape.candidates if c.type == "v"][:3]
    value = {"schema_version": 1, "model": {}, "probe": "default", "criterion": "hybrid", "scores": {}, "budget": {}}
    value |= {"overflow": "stop", "ties": "layer, type", "fft": fft, "lora": {"rank": 16, "names": []}, "counts": {}}
    path = tmp_path / "results/allocation/qwen2.5-1.5b.default.hybrid.params-0.1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value))
    text = plan(capsys, "--run", "1.5b-gspo-hybrid")
    assert "modules: 3 in full, 193 with LoRA, of 196" in text
    assert "as in results/allocation/qwen2.5-1.5b.default.hybrid.params-0.1.json" in text


def test_the_range_of_a_guessed_allocation_holds_it(seven):
    found = architecture.trained(seven, "criterion", ALLOCATION, 0.1)
    low, high = (int(x.replace(",", "")) for x in re.search(r"give ([\d,]+) to ([\d,]+)$", found.note).groups())
    assert low <= found.total <= high
    assert found.full <= 0.1 * sum(c.params for c in seven.candidates)
    modules = architecture.trained(seven, "criterion", ALLOCATION | {"unit": "modules"}, 0.1)
    assert len(modules.fft) == 19


@pytest.mark.parametrize(("path", "name"), [("Qwen/Qwen2.5-3B-Instruct", "3B"), ("Qwen/Qwen2.5-Math-1.5B", "1.5B")])
def test_known_shapes_need_no_files(path, name, tmp_path, monkeypatch):
    monkeypatch.setattr(architecture, "_cached", lambda entry: None)
    found = architecture.shape("m", HUB | {"path": path}, tmp_path)
    assert found.total == shapes.build(name)[1] and name in found.known_from


def test_unknown_models_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(architecture, "_cached", lambda entry: None)
    with pytest.raises(UserError, match=r"^models\.m: the shape of owner/name is not on this machine") as error:
        architecture.shape("m", HUB | {"path": "owner/name"}, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5"}, "Unrecognized configuration class .*T5Config.*"),
        ({"model_type": "qwen2", "hidden_size": "x"}, "Validation error for field 'hidden_size': .* expected int, got str .*"),
        ({"model_type": "of-tomorrow"}, ".*of-tomorrow.*"),
    ],
)
def test_folders_of_other_models_are_one_line(config, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"^{tmp_path}: cannot be loaded \({reason}\)$") as error:
        architecture.shape("m", {"source": "local", "path": str(tmp_path)}, tmp_path)
    assert "\n" not in str(error.value)


def test_a_models_own_folder_comes_first(tmp_path, model_folder):
    (tmp_path / "results/models").mkdir(parents=True)
    (tmp_path / "results/models/m").symlink_to(model_folder)
    found = architecture.shape("m", HUB, tmp_path)
    assert found.layers == 2 and found.hidden == 32 and found.tied and found.known_from == "results/models/m"


def test_seven_billion_parameters_with_vllm_beside_them(seven):
    """Whether 7B hybrid GRPO with colocated vLLM fits 80 GB, and what it takes."""
    trained, memory = architecture.trained(seven, "criterion", ALLOCATION, 0.1), GPUS["h100"].memory

    def total(**change):
        _, parts, engine = training.peak(seven, trained, RL | change, 512, 1, memory)
        assert training.fits(engine) is (engine["cache_tokens"] >= engine["longest"])
        return sum(parts.values()) / GIB

    assert 45 < total() < 60  # frozen base in bfloat16, checkpointing
    assert total(dtype="float32") > total() + 14
    assert total(gradient_checkpointing=False) > total() + 20
    assert total(vllm={"sleep": True}) < total() - 5
    full = architecture.trained(seven, "full", ALLOCATION)
    _, parts, _ = training.peak(seven, full, RL, 512, 1, memory)
    assert sum(parts.values()) / GIB > 130  # 16 bytes a weight and the second model


@pytest.mark.parametrize(("placement", "dtype"), [("full", "float32"), ("lora", "float32"), ("lora", "bfloat16")])
def test_the_cache_of_transformers_is_as_large_as_planned(placement, dtype, model_folder):
    """Keys and values of a real generation under autocast."""
    shape = architecture.of_model(load.shape(model_folder), "here")
    model, objective = (
        load.model(model_folder, dtype),
        RL | {"rollouts": "transformers", "dtype": dtype, "max_completion_tokens": 5},
    )
    objective |= {"prompts_per_generation": 1, "group_size": 3}
    if placement == "lora":
        names = [c.module for c in candidates.find(model)]
        model = get_peft_model(model, hybrid.lora_config({"rank": 4, "alpha": 8, "names": names}, ()))
    told = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True}  # the last one's are never needed
    with torch.autocast("cpu", torch.bfloat16):
        made = model.generate(input_ids=torch.ones(3, 7, dtype=torch.long), **told)
    held = sum(tensor.nbytes for layer in made.past_key_values.layers for tensor in (layer.keys, layer.values))
    trained = architecture.trained(shape, placement, ALLOCATION)
    assert training.rollouts(shape, trained, objective, 7, 1, GIB)["bytes"] == held


def test_what_would_make_it_fit_is_tried(seven):
    trained = architecture.trained(seven, "criterion", ALLOCATION, 0.1)
    objective = RL | {"dtype": "float32", "gradient_checkpointing": False}
    found = dict(training.remedies(seven, trained, objective, 512, 1, GPUS["h100"].memory))
    assert "gradient_checkpointing: true and dtype: bfloat16 and vllm.sleep: true" in " ".join(found)
    assert all(size < GPUS["h100"].memory for size in found.values())
    tight = RL | {"vllm": {"gpu_memory_utilization": 0.2}}  # holds the weights, but no cache
    _, _, engine = training.peak(seven, trained, tight, 512, 1, GPUS["h100"].memory)
    assert not training.fits(engine)


def test_hours_follow_the_work(seven):
    trained = architecture.trained(seven, "criterion", ALLOCATION, 0.1)
    gpu = GPUS["h200"]

    def spent(fill=1.0, **change):
        return hours._training(seven, trained, RL | change, 512, fill, gpu)

    assert spent(steps=200) == pytest.approx(2 * spent(), rel=0.02)
    assert spent(rollouts="transformers") > 4 * spent()
    assert spent(fill=0.5) < 0.6 * spent()
    assert spent(gradient_checkpointing=False) < spent()


def test_a_measured_step_is_met():
    """Full fine-tuning of the 1.5B shape on 8 x 1024 tokens took 0.247 s without and 0.297 s with checkpointing on an H200."""
    shape = architecture.of_model(shapes.model("1.5B"), "here")
    for passes, measured in ((3, 0.247), (4, 0.297)):
        seconds = 3600 * hours._hours(passes * hours.forward(shape, 8192, 1024), "full", GPUS["h200"])
        assert seconds == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "1.5b-gspo-hybird"], "did you mean '1.5b-gspo-hybrid'"),
        (["--run", "1.5b-gspo-hybrid", "--gpu", "v100"], "--gpu: 'v100' is not known; allowed: h200, h100, a100, a800"),
        (["--run", "1.5b-gspo-hybrid", "--fill", "2"], "--fill: is 2.0; allowed: above 0 and at most 1"),
        (["--run", "1.5b-gspo-hybrid", "--model", "qwen"], "--model: 'qwen' is not known; allowed: qwen2.5-1.5b"),
        (["--run", "1.5b-gspo-lora", "--method", "hybrid"], "--method: 'hybrid' selects modules by a criterion; give --budget"),
        (["--run", "1.5b-cot", "--method", "lora"], "--method: 'lora' is trained; give --objective too"),
        (["--run", "1.5b-gspo-hybrid", "--budget", "7"], "--budget: is 7; allowed: above 0 and at most 1"),
        (["--run", "1.5b-gspo-hybrid", "--budget", "nan"], "--budget: is nan; allowed: above 0 and at most 1"),
        (
            ["--run", "1.5b-gspo-lora", "--budget", "0.1"],
            "--budget: method 'lora' selects no modules by a criterion; give --method",
        ),
        (["--run", "1.5b-cot", "--objective", "gspo"], "--objective: method 'cot' trains nothing; give --method too"),
        (["--run", "1.5b-gspo-hybrid", "--configfile", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_what_is_refused_is_one_line(arguments, message, capsys):
    assert main(["plan", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0


def test_dropout_leaves_lora_to_peft(capsys):
    """As fast_layers: false does, in memory and hours."""
    run = ("--run", "1.5b-gspo-hybrid", "--objective", "sft", "--config")
    kept = "objectives={sft: {gradient_checkpointing: false}}"
    fast = plan(capsys, *run, kept)
    dropping = plan(capsys, *run, kept, "allocation={lora: {dropout: 0.1}}")
    slow = plan(capsys, *run, "objectives={sft: {gradient_checkpointing: false, fast_layers: false}}")
    assert gib(dropping, "activations") == gib(slow, "activations") > 1.3 * gib(fast, "activations")


@pytest.mark.parametrize("entry, option, found", [
    ("methods={mine: {placement: criterion, criterion: hybrid, probe: nope, prompt: cot}}", "--method", "nope"),
    ("objectives={mine: {algorithm: gspo, corpus: nope}}", "--objective", "nope"),
])  # fmt: skip
def test_what_an_option_names_is_checked_like_a_run(entry, option, found, capsys):
    assert main(["plan", "--run", "1.5b-gspo-hybrid", "--config", entry, option, "mine"]) == 2
    error = capsys.readouterr().err
    assert found in error and error.count("\n") == 1
