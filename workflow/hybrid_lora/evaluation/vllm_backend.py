"""Sampling with vLLM, on as many GPUs as the settings say. No departure from the paper, which names no engine.

vLLM refuses adapters with `modules_to_save`, so it is given a merged model in a temporary folder. That lasts as long as the
engine, which looks into it again after loading, and would ask the hub for it if it were gone. All batches are scheduled at
once: waiting for a batch's longest completion before the next batch starts would leave the GPU idle. Seeds belong to samples,
so what is sampled together changes rounding, never the draw.
"""

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.evaluation.watcher import watched
from hybrid_lora.modeling import hybrid

DEFAULTS = {
    "tensor_parallel": 1,
    "data_parallel": 1,
    "gpu_memory_utilization": 0.9,
    "prefix_caching": True,
    "max_model_len": None,
    "enforce_eager": False,
}
SHUTDOWN_S = 30  # then the engine is killed; a busy machine needs more than vLLM's 5
# One host, and nobody is told or asked anything.
PRIVATE = {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def open_engine(model_folder, policy, tokenizer, settings):
    """Yield an Engine: engine(prompts, seed) -> list of {completion, tokens, finish_reason, seed}, and engine.stream.

    settings: those of `evaluation complete`; `vllm` in it is evaluation.vllm of the configuration, DEFAULTS where it is absent.
    On leaving, however that comes about (kill -9 included), vLLM's processes are ended and the merged model is deleted.
    UserError if vLLM is not installed or refuses the settings.
    """
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except ImportError:
        raise UserError("evaluation.backend is vllm, which is not installed; use the GPU lock or backend: transformers") from None
    # SIGTERM, which schedulers send, leaves through every `finally` as Ctrl-C does: no engine, no merged model stays behind.
    terminated = SystemExit(128 + signal.SIGTERM)
    with (
        _raising(signal.SIGTERM, signal.SIG_DFL, terminated),
        asyncio.Runner() as runner,
        watched("merged-") as folder,
    ):
        folder = _weights(model_folder, policy, settings["dtype"], folder)
        core = _interruptible(_start, vllm, folder, model_folder, settings)
        try:
            yield Engine(runner, core, tokenizer, settings, vllm.SamplingParams)
        finally:
            core.shutdown(timeout=SHUTDOWN_S)


class Engine:
    """A running vLLM and the sampling settings of one benchmark."""

    def __init__(self, runner, core, tokenizer, settings, sampling_params):
        from vllm.sampling_params import RequestOutputKind

        self._runner, self._core, self._tokenizer = runner, core, tokenizer
        self._params = lambda seed: sampling_params(
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            max_tokens=settings["max_new_tokens"],
            seed=seed,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def __call__(self, prompts, seed):
        """Completions of one batch: list of {completion, tokens, finish_reason, seed}, in the order of the prompts."""
        return self._runner.run(self._batch(prompts, seed))

    def stream(self, batches):
        """Yield (key, completions) of each (key, prompts, seed) as soon as it is finished, in whatever order that is."""
        loop = self._runner.get_loop()
        keys = {loop.create_task(self._batch(prompts, seed)): key for key, prompts, seed in batches}
        while keys:
            done, _ = self._runner.run(asyncio.wait(keys, return_when=asyncio.FIRST_COMPLETED))
            for task in done:
                yield keys.pop(task), task.result()

    async def _batch(self, prompts, seed):
        seeds = [derive(seed, "sample", i) % 2**31 for i in range(len(prompts))]
        inputs = self._tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        named = ((tokens, own, f"{seed}-{i}") for i, (tokens, own) in enumerate(zip(inputs, seeds)))
        return await asyncio.gather(*(self._one(*request) for request in named))

    async def _one(self, tokens, seed, name):
        async for output in self._core.generate({"prompt_token_ids": tokens}, self._params(seed), name):
            found = output.outputs[0]  # the final one alone
        # vLLM's own text lacks the start of a character that was cut off; decoded here, both backends write the same.
        text = self._tokenizer.decode(found.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"completion": text, "tokens": len(found.token_ids), "finish_reason": found.finish_reason, "seed": seed}


def _weights(model_folder, policy, dtype, temporary):
    """A folder that vLLM can load: the model's or the trained model's own, or `temporary` with the adapter merged."""
    if policy is None or not (Path(policy) / "adapter_config.json").is_file():
        return policy or model_folder
    hybrid.load_policy(model_folder, policy, dtype).save_pretrained(temporary)
    return temporary


def _start(vllm, folder, words, settings):
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    chosen = DEFAULTS | settings.get("vllm", {})
    try:
        arguments = vllm.AsyncEngineArgs(
            model=str(folder),
            tokenizer=str(words),
            runner="generate",  # said, since vLLM takes our modules.json for that of an embedding model
            dtype=settings["dtype"],
            tensor_parallel_size=chosen["tensor_parallel"],
            data_parallel_size=chosen["data_parallel"],
            gpu_memory_utilization=chosen["gpu_memory_utilization"],
            enable_prefix_caching=chosen["prefix_caching"],
            max_model_len=chosen["max_model_len"],
            enforce_eager=chosen["enforce_eager"],
            # A prompt in parts makes vLLM rewind the sample's generator, and those of a CPU cannot: the engine dies.
            enable_chunked_prefill=False if current_platform.is_cpu() else None,
            disable_log_stats=True,
        )
        # Said too: for other uses than this one vLLM's defaults run half as many sequences at once, or fewer.
        return vllm.AsyncLLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    except ValueError as error:  # pydantic's is one too
        said = " ".join(str(error).split())
        raise UserError(f"evaluation.vllm: vLLM refuses these settings: {said[:300]}") from None


class _Interrupted(BaseException):
    """Ctrl-C while vLLM starts: it swallows a KeyboardInterrupt then, and waits for its engine for ten minutes."""


def _interruptible(function, *arguments):
    try:
        with _raising(signal.SIGINT, signal.default_int_handler, _Interrupted()):
            return function(*arguments)
    except _Interrupted:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _raising(number, usual, error):
    """The signal raises `error` inside the block, if it is handled in the usual way outside and this is the main thread."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(number) == usual

    def handle(*_):
        raise error

    if ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        if ours:
            signal.signal(number, usual)
