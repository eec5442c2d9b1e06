"""RL warm-up of the probe with the real vLLM, colocated: it samples from the model with its branches.

Skipped where vLLM is not installed; on a CPU `make test-vllm ARGS=tests/probe/test_warmup_vllm.py` has its CPU build.
"""

import pytest
import vllm_here

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

from objective_settings import GRADING, RL
from samples import conversations

from hybrid_lora.modeling import load, svd_lora
from hybrid_lora.probe import warmup_rl

OPTIONS = {"steps": 4, "learning_rate": 1e-2, "schedule": "constant", "weight_decay": 0.0, "gradient_checkpointing": False}
OPTIONS |= {"save_every": 4, "seed": 0}


def test_it_samples_from_the_probe(tmp_path):
    """Log-probabilities of the engine and of the trainer agree, also after the branches have moved."""
    objective = RL | {"algorithm": "gspo", "max_completion_tokens": 24, "rollouts": "vllm", "vllm": vllm_here.ENGINE}
    objective |= {"rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0}}
    folder = vllm_here.model_folder(tmp_path / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        vllm_here.set_up(patch)
        model = load.model(folder)
        branches = svd_lora.attach(model, 4, {"method": "lora", "e": 1.0, "alpha": 1.0}, 0)
        model.to(load.device())
        work, words, rows = tmp_path / "state", load.tokenizer(folder), conversations(64)
        records = warmup_rl.train(model, branches, words, rows, OPTIONS, objective, GRADING, work, 1)
    differences = [r[key] for r in records if (key := "sampling/sampling_logp_difference/mean") in r]
    assert len(differences) == 2 and max(differences) < 0.02
    assert records[0]["kl"] == 0.0 < records[3]["kl"]
