"""What would be sent to vLLM, without vLLM: `test_vllm_rollouts` has the real engine."""

import contextlib
from types import SimpleNamespace

import pytest
import rl_runs
import torch

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import load
from hybrid_lora.objectives import rl, vllm_sync


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


def test_prompts_without_room_for_an_answer_are_one_line(model_folder):
    """Before an engine is started; equal prompts count once."""
    words, config = load.tokenizer(model_folder), SimpleNamespace(max_position_embeddings=40)
    short, long = ([{"role": "user", "content": "1 + 1 " * times}] for times in (1, 30))
    objective = {"rollouts": "vllm", "max_completion_tokens": 8, "vllm": {"max_model_len": None}}
    args = SimpleNamespace(vllm_max_model_length=None)
    rl.fit_engine(args, [long], words, config, objective | {"rollouts": "transformers"})
    assert args.vllm_max_model_length is None
    rl.fit_engine(args, [short, short], words, config, objective)
    prompt = len(words.apply_chat_template(short, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"])
    assert args.vllm_max_model_length == prompt + 8 < 40
    rl.fit_engine(args, [short, short], words, config, objective | {"max_completion_tokens": 30})
    assert args.vllm_max_model_length == 40  # no longer than the model's context
    args.vllm_max_model_length = 500
    rl.fit_engine(args, [long], words, config, objective | {"vllm": {"max_model_len": 500}})
    assert args.vllm_max_model_length == 500
    expected = r"vllm\.max_model_len: 40 tokens leave no room for an answer to 1 of 2 prompts; allowed: more than \d+, or "
    with pytest.raises(UserError, match=expected) as error:
        rl.fit_engine(args, [short, long, long], words, config, objective)
    assert "\n" not in str(error.value)
