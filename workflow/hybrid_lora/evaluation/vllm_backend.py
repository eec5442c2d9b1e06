"""Sampling with vLLM. It refuses adapters with `modules_to_save`, so it gets a merged model in a temporary folder."""

import contextlib
import tempfile

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import hybrid


@contextlib.contextmanager
def open_engine(model_folder, policy, tokenizer, settings):
    """Yield generate(prompts, seed) -> list of {completion, tokens, finish_reason, seed}."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise UserError("evaluation.backend is vllm, which is not installed; use the GPU lock or backend: transformers") from None
    with tempfile.TemporaryDirectory() as folder:
        hybrid.load_policy(model_folder, policy, settings["dtype"]).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = LLM(model=folder, dtype=settings["dtype"], enable_prefix_caching=True)

        def generate(prompts, seed):
            seeds = [derive(seed, "sample", i) % 2**31 for i in range(len(prompts))]
            common = {k: settings[k] for k in ("temperature", "top_p")}
            params = [SamplingParams(**common, max_tokens=settings["max_new_tokens"], seed=s) for s in seeds]
            tokens = [{"prompt_token_ids": tokenizer(p, add_special_tokens=False)["input_ids"]} for p in prompts]
            outputs = engine.generate(tokens, params, use_tqdm=False)
            return [
                {"completion": o.text, "tokens": len(o.token_ids), "finish_reason": o.finish_reason, "seed": s}
                for o, s in zip((output.outputs[0] for output in outputs), seeds)
            ]

        yield generate
