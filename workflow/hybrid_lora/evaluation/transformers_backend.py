"""Sampling with transformers' `generate`, on whatever device there is: the embedded default, CPUs, small models."""

import contextlib

import torch
from transformers import GenerationConfig

from hybrid_lora.modeling import hybrid, load


@contextlib.contextmanager
def open_engine(model_folder, policy, tokenizer, settings):
    """Yield generate(prompts, seed) -> list of {completion, tokens, finish_reason, seed}."""
    device = load.device()
    model = hybrid.load_policy(model_folder, policy, settings["dtype"]).to(device).eval()
    stop = model.generation_config.eos_token_id
    stops = set(stop if isinstance(stop, list) else [] if stop is None else [stop]) | {tokenizer.eos_token_id}
    tokenizer.padding_side = "left"
    config = GenerationConfig(
        do_sample=settings["temperature"] > 0,
        temperature=settings["temperature"] or None,
        top_p=settings["top_p"],
        top_k=0,
        max_new_tokens=settings["max_new_tokens"],
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    # `generate` fills what is unset from here: released models bring a repetition penalty that nobody has asked for.
    model.generation_config = config

    @torch.inference_mode()
    def generate(prompts, seed):
        torch.manual_seed(seed)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        inputs.pop("token_type_ids", None)
        new_BT = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
        return [_row(tokenizer, ids, stops, seed) for ids in new_BT.tolist()]

    yield generate


def _row(tokenizer, ids, stops, seed):
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[: end + 1]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return {"completion": text, "tokens": len(kept), "finish_reason": "length" if end is None else "stop", "seed": seed}
