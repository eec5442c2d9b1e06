"""What would be sent to vLLM, without vLLM: `test_vllm_rollouts` has the real engine."""

import contextlib

import pytest
import rl_runs
import torch

from hybrid_lora.modeling import load
from hybrid_lora.objectives import vllm_sync


@pytest.mark.parametrize("placement", ["hybrid", "lora"])
def test_only_what_is_trained_or_adapted_is_sent(placement, tmp_path, model_folder, corpus_files):
    built, _ = rl_runs.build(model_folder, corpus_files[0], tmp_path, placement, steps=2)
    built.train()
    sent = dict(vllm_sync.adapted(built.model, contextlib.nullcontext))
    base = dict(load.model(model_folder).named_parameters())
    trained = {name for name, parameter in built.model.named_parameters() if parameter.requires_grad}
    plain = {name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in trained}
    plain = {name.split(".lora_")[0] + ".weight" if ".lora_" in name else name for name in plain}
    assert sent.keys() == plain
    assert not any(torch.equal(value, base[name]) for name, value in sent.items())  # the embedding and norms are not among them
    every = dict(vllm_sync.everything(built.model, contextlib.nullcontext))
    assert every.keys() == base.keys()
    assert all(torch.equal(every[name], base[name]) for name in base.keys() - sent.keys())
