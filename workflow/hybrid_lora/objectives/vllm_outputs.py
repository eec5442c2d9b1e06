"""What a colocated engine is asked and hands back, without an object for every token.

TRL asks vLLM for text and log-probabilities as anybody gets them: a dict with an object for each token, the token decoded
beside it, and the text decoded as it grows. The engine runs in the training's own process, where its Python takes longer than
the GPU, so all of it delays the engine's next step; TRL then reads one number from each dict and decodes the completions
itself. Here vLLM keeps plain lists (`flat_logprobs`) and decodes nothing, and gets each prompt once with the number of its
completions (`n`) instead of once for each. What is sampled is the same.

vLLM fills these lists by a general path for any number of alternatives, which slices three arrays for each token and takes 3
microseconds more: a tenth of a generation. The sampled token alone is kept as its place in the step's array (`_keep_places`)
and read when the completion ends; anything else still goes vLLM's own way.
"""

import copy
import functools
import importlib
import itertools
import math
import operator

from trl.generation import vllm_generation

SAMPLING = {"detokenize": False, "flat_logprobs": True}  # further arguments of vLLM's SamplingParams


def read_flat():
    """Have vLLM keep sampled tokens' log-probabilities by their place, and TRL take flat ones as they are; others are made and
    read as before. Calling it again changes nothing."""
    _keep_places()
    original = vllm_generation.extract_logprobs
    if getattr(original, "reads_flat", False):
        return

    @functools.wraps(original)
    def extract_logprobs(outputs):
        return _flat([one for output in outputs for one in output.outputs]) or original(outputs)

    extract_logprobs.reads_flat = True
    vllm_generation.extract_logprobs = extract_logprobs


def group_prompts(generation):
    """Have the engine of TRL's VLLMGeneration, where colocated, make the completions of a prompt that stands several times in a
    row from one request for all of them. A server is asked in this way by TRL itself."""
    if generation.mode != "colocate":
        return
    original = generation.llm.generate

    @functools.wraps(original)
    def generate(prompts, sampling_params, **keywords):
        size = _repeats(prompts)
        if size == 1 or sampling_params.n != 1 or sampling_params.seed is not None:
            return original(prompts, sampling_params=sampling_params, **keywords)
        several = sampling_params.clone()
        several.n = size
        return [single for each in original(prompts[::size], sampling_params=several, **keywords) for single in _singles(each)]

    generation.llm.generate = generate


def _repeats(prompts):
    """The largest number of which the length of every run of equal prompts is a multiple; 1 if one is more than token ids."""
    if not all(type(prompt) is dict and prompt.keys() == {"prompt_token_ids"} for prompt in prompts):
        return 1
    runs = [sum(1 for _ in run) for _, run in itertools.groupby(prompts)]
    return math.gcd(*runs) if runs else 1


def _singles(output):
    """A RequestOutput for each of its completions."""
    for completion in output.outputs:
        single = copy.copy(output)
        single.outputs = [completion]
        yield single


def _keep_places():
    # Not by an import statement: vLLM's version counts where it makes rollouts (`CHOICES` of the commands), not wherever this is.
    lists = importlib.import_module("vllm.v1.outputs").LogprobsLists
    processor = importlib.import_module("vllm.v1.engine.logprobs").LogprobsProcessor
    flat = importlib.import_module("vllm.logprobs").FlatLogprobs
    if not getattr(lists.slice_request, "gives_places", False):
        lists.slice_request = _placing(lists.slice_request)
        processor.update_from_output = _keeping(processor.update_from_output, lists.slice_request.__wrapped__, flat)


def _placing(original):
    """`LogprobsLists.slice_request` that makes (lists, place) of one sampled token, not three arrays."""

    @functools.wraps(original)
    def slice_request(self, place, count):
        if count != 1 or self.logprobs.shape[1] != 1 or self.cu_num_generated_tokens is not None:
            return original(self, place, count)
        return self, place

    slice_request.gives_places = True
    return slice_request


def _keeping(original, slicing, flat):
    """`LogprobsProcessor.update_from_output` that keeps such places until the completion ends.

    slicing: vLLM's own `slice_request`; flat: its FlatLogprobs.
    """

    @functools.wraps(original)
    def update_from_output(self, output):
        given = output.new_logprobs
        if type(given) is tuple:
            if self.num_logprobs == 0 and self.tokenizer is None and type(self.logprobs) is flat:
                batches, places = self.__dict__.setdefault("unread", ([], []))  # two lists: a pair a token is an object a token
                batches.append(given[0])
                places.append(given[1])
                given = output.new_logprobs = None
            else:
                given = output.new_logprobs = slicing(*given, 1)
        if "unread" in self.__dict__ and (given is not None or output.finish_reason is not None):
            _read(self, *self.__dict__.pop("unread"))
        original(self, output)

    return update_from_output


def _read(processor, batches, places):
    """Into the processor's FlatLogprobs what lies there, as vLLM would have appended it token by token."""
    kept, begin = processor.logprobs, len(processor.logprobs.logprobs)
    places = list(zip(batches, places))
    values = [lists.logprobs.item(place) for lists, place in places]
    processor.cumulative_logprob = functools.reduce(operator.add, values, processor.cumulative_logprob)
    kept.logprobs += values
    kept.token_ids += [lists.logprob_token_ids.item(place) for lists, place in places]
    kept.ranks += [lists.sampled_token_ranks.item(place) for lists, place in places]
    kept.decoded_tokens += [None] * len(places)
    kept.start_indices += range(begin, begin + len(places))
    kept.end_indices += range(begin + 1, begin + 1 + len(places))


def _flat(completions):
    """([completion][token][(value,)], ids alike) where all are flat and of sampled tokens alone; None otherwise."""
    values = [getattr(one.logprobs, "logprobs", None) for one in completions]
    if not all(found is not None and len(found) == len(one.token_ids) for found, one in zip(values, completions)):
        return None
    numbers = [[None if math.isnan(value) else value for value in found] if math.isnan(sum(found)) else found for found in values]
    return [list(zip(found)) for found in numbers], [list(zip(one.token_ids)) for one in completions]  # NaN as TRL has it
