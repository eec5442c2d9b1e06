"""Settings of vLLM in the configuration: who is told, what is refused before any job."""

from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load
from hybrid_lora.config.plan import Plan
from hybrid_lora.evaluation import vllm_backend

REPO = Path(__file__).resolve().parents[2]


def plan(engine=None, gpus=1, backend="vllm"):
    values = layers.merge(layers.read_yaml(REPO / "config/config.yaml"), layers.read_yaml(REPO / "config/demo.yaml"))
    changed = {"evaluation": {"backend": backend, "vllm": engine or {}}, "compute": {"gpus": gpus}}
    return Plan(load(layers.merge(values, changed), ["config/config.yaml", "config/demo.yaml"], REPO), REPO)


def test_vllm_is_told_its_settings():
    assert plan().completions("cot", "gpqa")["vllm"] == vllm_backend.DEFAULTS
    found = plan({"tensor_parallel": 2, "data_parallel": 2, "max_model_len": 8192}, gpus=4).completions("cot", "gpqa")
    changed = {"tensor_parallel": 2, "data_parallel": 2, "max_model_len": 8192}
    assert found["vllm"] == vllm_backend.DEFAULTS | changed


def test_transformers_reruns_nothing_for_them():
    plain = plan(backend="transformers").completions("cot", "gpqa")
    assert "vllm" not in plain
    assert plan({"tensor_parallel": 2, "enforce_eager": True}, backend="transformers").completions("cot", "gpqa") == plain


def test_one_engine_on_the_processor():
    assert plan(gpus=0).completions("cot", "gpqa")["vllm"]["tensor_parallel"] == 1


MISTAKES = [
    ({"tensor_parallel": 2}, 1, r"evaluation\.vllm: tensor_parallel \* data_parallel is 2, must be at most compute\.gpus, 1$"),
    ({"tensor_parallel": 2, "data_parallel": 4}, 4, r"is 8, must be at most compute\.gpus, 4$"),
    ({"data_parallel": 2}, 0, r"is 2, must be at most compute\.gpus, 0$"),
    ({"tensor_parallel": 0}, 1, r"evaluation\.vllm\.tensor_parallel: is 0, must be at least 1"),
    ({"gpu_memory_utilization": 1.5}, 1, r"evaluation\.vllm\.gpu_memory_utilization: is 1\.5, must be at most 1"),
    ({"tensor_paralel": 2}, 1, r"evaluation\.vllm\.tensor_paralel: .*did you mean 'tensor_parallel'\?"),
]


@pytest.mark.parametrize(("engine", "gpus", "said"), MISTAKES)
def test_mistakes_are_one_line(engine, gpus, said):
    with pytest.raises(UserError, match=said) as error:
        plan(engine, gpus)
    assert "\n" not in str(error.value)


def test_the_engine_of_rollouts_is_a_setting_only_where_it_is_used():
    def training(**objective):
        values = layers.merge(layers.read_yaml(REPO / "config/config.yaml"), layers.read_yaml(REPO / "config/demo.yaml"))
        changed = layers.merge(values, {"objectives": {"gspo": objective}})
        return Plan(load(changed, ["config/config.yaml", "config/demo.yaml"], REPO), REPO).training("hybrid")["objective"]

    assert "vllm" not in training(vllm={"sleep": True})
    assert training(rollouts="vllm", vllm={"sleep": True})["vllm"]["sleep"] is True


@pytest.mark.parametrize("gpus, who", [(0, "transformers"), (1, "vllm"), (8, "vllm")])
def test_who_samples_unless_it_is_said(gpus, who):
    """vLLM, which is many times faster on a GPU; where there is none, what needs nothing more."""
    values = layers.merge(layers.read_yaml(REPO / "config/config.yaml"), {"compute": {"gpus": gpus}})
    del values["objectives"]["gspo"]["rollouts"]
    found = Plan(load(values, ["config/config.yaml"], REPO), REPO)
    for run in ("1.5b-grpo-full-ft", "1.5b-gspo-hybrid"):
        assert found.training(run)["objective"]["rollouts"] == who
        assert ("vllm" in found.training(run)["objective"]) == (who == "vllm")
    told = layers.merge(values, {"objectives": {"gspo": {"rollouts": "transformers"}}})
    found = Plan(load(told, ["config/config.yaml"], REPO), REPO).training("1.5b-gspo-hybrid")
    assert found["objective"]["rollouts"] == "transformers"
