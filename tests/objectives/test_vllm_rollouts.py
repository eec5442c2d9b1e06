"""Training with the real vLLM as the engine of rollouts, colocated: what it is sent, that the frozen weights stay as they are
bit for bit, and that it samples from the policy that is trained.

Skipped where vLLM is not installed; on a CPU `make test-vllm ARGS=tests/objectives/test_vllm_rollouts.py` has its CPU build.
That packs weights as it loads them and could not take new ones; here its plain matrix product is chosen instead.
"""

import json
import os
from types import SimpleNamespace

import numpy
import pytest
import torch
import vllm_here

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

from objective_settings import GRADING, RL
from peft import PeftModel
from samples import conversations
from trl.generation import vllm_generation
from vllm import SamplingParams
from vllm.logprobs import FlatLogprobs
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from hybrid_lora.modeling import hybrid, load, trainer
from hybrid_lora.objectives import rl, timing, vllm_outputs, vllm_sync

FFT = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
LORA = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.gate_proj"]
OBJECTIVE = RL | {
    "algorithm": "gspo",
    "max_completion_tokens": 24,
    "rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0},
    "rollouts": "vllm",
    "vllm": vllm_here.ENGINE,
    "precision": "bf16",
    "save_every": 4,
}


@pytest.fixture(scope="module", autouse=True)
def small_machine():
    with pytest.MonkeyPatch.context() as patch:
        vllm_here.set_up(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return vllm_here.model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """(trainer after four steps, what each sync sent, frozen weights before, records, what each should have sent); a frozen
    base in bf16 is where merging in place would drift."""
    work = tmp_path_factory.mktemp("state")
    words, model = load.tokenizer(folder), load.model(folder, "bfloat16")
    peft = hybrid.lora_config({"rank": 4, "alpha": 8, "dropout": 0.0, "names": LORA}, FFT)
    record = trainer.Record("training")
    built = rl.build(model, peft, words, conversations(64), OBJECTIVE, 0, work, [record], GRADING, 1, "r")
    hybrid.to_fp32_trainable(built.model)
    frozen = {name: p.detach().clone() for name, p in built.model.named_parameters() if not p.requires_grad}
    syncs, exact, weights = [], [], built.vllm_generation._iter_named_params

    def watched():
        syncs.append({})
        with torch.autocast(built.accelerator.device.type, enabled=False):
            gathered = vllm_sync.adapted(built.model, built.vllm_generation._dist.gather_params)
            exact.append({name: value.clone() for name, value in gathered})
        for name, value in weights():
            syncs[-1][name] = value.clone()
            yield name, value

    built.vllm_generation._iter_named_params = watched
    record.quiet(built).train()
    return built, syncs, frozen, record.history(), exact


def test_frozen_weights_are_the_same_bit_for_bit(trained):
    built, syncs, frozen, _, _ = trained
    assert len(syncs) == 2  # one a generation
    after = dict(built.model.named_parameters())
    assert len(frozen) > 20 and {value.dtype for value in frozen.values()} == {torch.bfloat16}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


def test_no_frozen_unadapted_weight_is_sent(trained):
    built, syncs, _, _, _ = trained
    expected = {f"{name}.weight" for name in [*FFT, *LORA]} | {"model.layers.1.self_attn.q_proj.bias"}
    assert [set(sent) for sent in syncs] == [expected] * 2
    base = load.model(built.model.name_or_path, "bfloat16")
    base.to(built.accelerator.device)
    first = {name: torch.equal(value, base.get_parameter(name)) for name, value in syncs[0].items()}
    assert all(first.values())  # before the first update the policy is the base
    assert not any(torch.equal(value, base.get_parameter(name)) for name, value in syncs[1].items())


def test_what_is_sent_is_added_in_float32(trained):
    """The update's autocast ends before the weights are made: a product in bf16 would be rounded twice."""
    _, syncs, _, _, exact = trained
    for sent, expected in zip(syncs, exact, strict=True):
        assert all(torch.equal(sent[name], value) for name, value in expected.items())


def test_what_is_sent_is_the_merged_policy(trained, folder, tmp_path):
    built = trained[0]
    built.model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    merged = PeftModel.from_pretrained(load.model(folder), tmp_path).merge_and_unload().to(built.accelerator.device)
    gather = built.vllm_generation._dist.gather_params
    for name, value in vllm_sync.adapted(built.model, gather):
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.float(), merged.get_parameter(name), atol=1e-6, rtol=2**-8)
    every = dict(vllm_sync.everything(built.model, gather))
    assert every.keys() == dict(merged.named_parameters()).keys()
    for name, value in every.items():
        torch.testing.assert_close(value.float(), merged.get_parameter(name), atol=1e-6, rtol=2**-8)


def test_a_server_gets_what_it_makes_anew(trained):
    """A server's layerwise reload keeps nothing of a fused layer that was not sent; a module may have LoRA where others have
    none."""
    from vllm.model_executor.model_loader import reload

    built = trained[0]
    engine, gather = built.vllm_generation.llm.llm_engine, built.vllm_generation._dist.gather_params
    model = engine.model_executor.driver_worker.model_runner.model
    model.load_weights(vllm_sync.adapted(built.model, gather))
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.data.add_(1)  # what was not sent shows
    reload.initialize_layerwise_reload(model)
    sent = dict(vllm_sync.adapted(built.model, gather, partners=True))
    model.load_weights(sent.items())
    reload.finalize_layerwise_reload(model, engine.model_config)
    fused = ("0.self_attn.qkv_proj", "1.self_attn.qkv_proj", "1.mlp.gate_up_proj", "0.mlp.down_proj")
    for name, value in model.named_parameters():
        anew = name.removeprefix("model.layers.").rpartition(".")[0] in fused
        assert torch.equal(value, expected[name] if anew else expected[name] + 1), name
    model.load_weights(vllm_sync.everything(built.model, gather))
    assert all(torch.equal(value, expected[name]) for name, value in model.named_parameters())
    assert len(sent) == 2 * 3 * 2 + 2 + 1


def test_it_samples_from_the_policy(trained):
    """Log-probabilities of the engine and of the trainer agree after the weights have moved, to the engine's precision."""
    records = trained[3]
    differences = [r["sampling/sampling_logp_difference/mean"] for r in records if "sampling/sampling_logp_difference/mean" in r]
    assert len(differences) == 2
    assert max(differences) < 0.05
    assert records[0]["kl"] == 0.0 < records[-2]["kl"]
    assert [r["time_sync_s"] > 0 for r in records if "loss" in r] == [True, False, True, False]


def test_the_parts_sum_to_the_step(trained):
    """The weights' way to the engine, which lies inside the sampling, is not counted twice."""
    records = trained[3]
    parts = sum(record[f"time_{part}_s"] for record in records[1:] for part in timing.PARTS)
    passed = records[-1]["elapsed_s"] - records[0]["elapsed_s"]
    assert 0.9 * passed < parts <= passed + 0.01


def test_flat_outputs_are_read_as_trl_reads_them(trained):
    """The engine makes flat log-probabilities and no text; other ones still go TRL's way."""
    engine = trained[0].vllm_generation
    assert engine.generation_kwargs == vllm_outputs.SAMPLING
    common = {"n": 2, "temperature": 1.0, "max_tokens": 24, "logprobs": 0, "seed": 1}
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [9, 8]}]
    plain = engine.llm.generate(prompts, SamplingParams(**common), use_tqdm=False)
    flat = engine.llm.generate(prompts, SamplingParams(**common, **vllm_outputs.SAMPLING), use_tqdm=False)
    assert [one.token_ids for o in flat for one in o.outputs] == [one.token_ids for o in plain for one in o.outputs]
    assert all(isinstance(one.logprobs, FlatLogprobs) and one.text == "" for o in flat for one in o.outputs)
    read = vllm_generation.extract_logprobs
    as_trl = read.__wrapped__(flat)
    assert tuple([[list(one) for one in found] for found in part] for part in read(flat)) == as_trl
    assert read(plain) == read.__wrapped__(plain) == as_trl


@pytest.mark.parametrize("width, tokens, ends", [(1, 1, None), (1, 1, [0, 1, 2, 3]), (1, 2, [0, 2, 4, 6]), (3, 1, None)])
@pytest.mark.parametrize("made, asked", [(FlatLogprobs, 0), (FlatLogprobs, 2), (list, 0)])
@pytest.mark.parametrize("cut_off", [False, True])
def test_log_probabilities_are_kept_as_vllm_keeps_them(made, asked, width, tokens, ends, cut_off):
    """Of sampled tokens alone, which are read from their places at the end, and of all else.

    width: of the batch, as another request may ask for more; ends: where vLLM says where each request's tokens begin, as with
    speculative decoding; cut_off: what ends a completion comes without a token.
    """
    vllm_outputs.read_flat()
    draw, requests, steps = numpy.random.default_rng(0), 3, 5
    given = {"tokenizer": None, "prompt_logprobs": None, "cumulative_logprob": 0.0, "num_prompt_logprobs": None}
    pairs = [[LogprobsProcessor(logprobs=made(), num_logprobs=asked, **given) for _ in range(2)] for _ in range(requests)]
    whole = LogprobsLists.slice_request.__wrapped__
    for step in range(steps):
        values = draw.normal(size=(requests * tokens, width)).astype("float32")
        batch = LogprobsLists(draw.integers(300, size=values.shape), values, draw.integers(300, size=len(values)), ends)
        last = FinishReason.LENGTH if step == steps - 1 and not cut_off else None
        for place, (ours, own) in enumerate(pairs):
            told = {"request_id": "r", "new_token_ids": [1] * tokens, "finish_reason": last}
            ours.update_from_output(EngineCoreOutput(new_logprobs=batch.slice_request(place, tokens), **told))
            as_vllm = EngineCoreOutput(new_logprobs=whole(batch, place, tokens), **told)
            LogprobsProcessor.update_from_output.__wrapped__(own, as_vllm)
    for ours, own in pairs:
        if cut_off:
            ours.update_from_output(EngineCoreOutput(request_id="r", new_token_ids=[], finish_reason=FinishReason.ABORT))
        assert ours == own and len(ours.logprobs) == steps * tokens
        assert list(ours.logprobs) == list(own.logprobs)


def test_places_and_vllms_own_lists_stay_in_order():
    """Another request that asks for more makes some steps wider than others."""
    vllm_outputs.read_flat()
    draw = numpy.random.default_rng(0)
    given = {"tokenizer": None, "prompt_logprobs": None, "cumulative_logprob": 0.0, "num_prompt_logprobs": None}
    ours, own = (LogprobsProcessor(logprobs=FlatLogprobs(), num_logprobs=0, **given) for _ in range(2))
    for step, width in enumerate((1, 1, 3, 1, 2, 1)):
        values = draw.normal(size=(2, width)).astype("float32")
        batch = LogprobsLists(draw.integers(300, size=values.shape), values, draw.integers(300, size=2))
        told = {"request_id": "r", "new_token_ids": [1], "finish_reason": FinishReason.LENGTH if step == 5 else None}
        ours.update_from_output(EngineCoreOutput(new_logprobs=batch.slice_request(1, 1), **told))
        as_vllm = EngineCoreOutput(new_logprobs=LogprobsLists.slice_request.__wrapped__(batch, 1, 1), **told)
        LogprobsProcessor.update_from_output.__wrapped__(own, as_vllm)
    assert ours == own and list(ours.logprobs) == list(own.logprobs)


def test_a_group_is_one_request(trained):
    """TRL asks for each completion by itself; the engine gets each prompt once and hands back as many outputs, in TRL's order."""
    llm = trained[0].vllm_generation.llm
    asked, original = [], llm.generate.__wrapped__

    class Engine:
        def generate(self, prompts, sampling_params, **keywords):
            asked.append((len(prompts), sampling_params.n))
            return original(prompts, sampling_params=sampling_params, **keywords)

    engine = Engine()
    vllm_outputs.group_prompts(SimpleNamespace(mode="server"))
    vllm_outputs.group_prompts(SimpleNamespace(mode="colocate", llm=engine))
    common = {"temperature": 1.0, "max_tokens": 8, "logprobs": 0, **vllm_outputs.SAMPLING}
    a, b = ({"prompt_token_ids": ids} for ids in ([5, 6, 7], [9, 8]))
    outputs = engine.generate([a] * 4 + [b] * 2 + [a] * 2, sampling_params=SamplingParams(**common), use_tqdm=False)
    assert [o.prompt_token_ids for o in outputs] == [[5, 6, 7]] * 4 + [[9, 8]] * 2 + [[5, 6, 7]] * 2
    assert all(len(o.outputs) == 1 and len(o.outputs[0].logprobs) == len(o.outputs[0].token_ids) for o in outputs)
    assert len({tuple(o.outputs[0].token_ids) for o in outputs}) > 4  # each sampled by itself
    for prompts, change in (([a, a, b], {}), ([a, a], {"seed": 1}), ([a | {"prompt": "x"}] * 2, {})):
        engine.generate(prompts, sampling_params=SamplingParams(**common, **change), use_tqdm=False)
    assert asked == [(4, 2), (3, 1), (2, 1), (2, 1)]


def test_the_engine_has_room_for_the_longest_prompt_and_answer(trained):
    """Not for the model's whole context, whose cache may not fit beside a training."""
    built = trained[0]
    prompts = list(built.train_dataset["prompt"])
    asked = built.processing_class.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    longest = max(map(len, asked["input_ids"])) + OBJECTIVE["max_completion_tokens"]
    assert built.vllm_generation.llm.llm_engine.model_config.max_model_len == longest < 256


def test_the_engine_has_a_port_of_its_own(trained):
    """Not of TRL's list, which trainings that start together would share."""
    from trl.trainer import utils

    assert 29500 in utils._find_free_port.__code__.co_consts[1]
    assert int(os.environ["MASTER_PORT"]) not in utils._find_free_port.__code__.co_consts[1]


def test_the_engine_does_not_see_our_files(trained, folder):
    built = trained[0]
    shown = built.vllm_generation.llm.llm_engine.model_config.model
    assert shown != str(folder)
    assert sorted(os.listdir(shown)) == sorted(set(os.listdir(folder)) - {"modules.json"})
