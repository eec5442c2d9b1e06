"""What a colocated engine hands back, without an object for every token.

TRL asks vLLM for text and log-probabilities as anybody gets them: a dict with an object for each token, the token decoded
beside it, and the text decoded as it grows. The engine runs in the training's own process, so all of it delays the engine's
next step; TRL then reads one number from each dict and decodes the completions itself. Here vLLM keeps plain lists
(`flat_logprobs`) and decodes nothing. What is sampled is the same.
"""

import functools
import math

from trl.generation import vllm_generation

SAMPLING = {"detokenize": False, "flat_logprobs": True}  # further arguments of vLLM's SamplingParams


def read_flat():
    """Have TRL take flat log-probabilities as they are; others it reads as before. Calling it again changes nothing."""
    original = vllm_generation.extract_logprobs
    if getattr(original, "reads_flat", False):
        return

    @functools.wraps(original)
    def extract_logprobs(outputs):
        return _flat([one for output in outputs for one in output.outputs]) or original(outputs)

    extract_logprobs.reads_flat = True
    vllm_generation.extract_logprobs = extract_logprobs


def _flat(completions):
    """([completion][token][(value,)], ids alike) where all are flat and of sampled tokens alone; None otherwise."""
    values = [getattr(one.logprobs, "logprobs", None) for one in completions]
    if not all(found is not None and len(found) == len(one.token_ids) for found, one in zip(values, completions)):
        return None
    numbers = [[(None if math.isnan(value) else value,) for value in found] for found in values]  # as TRL has it
    return numbers, [list(zip(one.token_ids)) for one in completions]
