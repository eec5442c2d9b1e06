"""Qwen2's tokenizer with a vocabulary learned from a corpus: byte-level BPE, digits one by one, a chat template.

The class is transformers' own: for `model_type: qwen2` AutoTokenizer builds Qwen2's splitting rules whatever
tokenizer.json says, so a tokenizer with other rules would be silently another one after loading.
"""

from collections import Counter

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from hybrid_lora.common.errors import UserError

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SMALLEST = 256 + 3  # all bytes, and these three
RARE = 100  # a phrase that stands in fewer conversations is not worth a token
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(conversations, vocab_size, merge="words"):
    """A Qwen2Tokenizer with at most `vocab_size` entries, learned from lists of messages.

    merge: words (a token never crosses a word's end), or phrases (frequent strings of words, up to the next digit, are
    tokens too: in a corpus of few turns of phrase sequences get three times shorter).
    """
    if vocab_size < SMALLEST:
        raise UserError(f"tokenizer.vocab_size is {vocab_size}; a byte-level vocabulary needs at least {SMALLEST}")
    texts = [message["content"] for messages in conversations for message in messages]
    found = _phrases(texts, vocab_size - SMALLEST) if merge == "phrases" else []
    words = Qwen2Tokenizer().train_new_from_iterator(texts, vocab_size - len(found), new_special_tokens=[START, END])
    words.add_tokens(found)
    words.eos_token, words.pad_token, words.chat_template = END, PAD, TEMPLATE
    return words


def _phrases(texts, count):
    """At most `count` frequent strings of several words without digits, from a BPE that knows no word boundaries."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + count, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    uses = Counter(id for encoding in bpe.encode_batch(texts) for id in set(encoding.ids))
    split = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    frequent = [bpe.decode([id]) for id, n in sorted(uses.items()) if n >= min(RARE, len(texts) / 10)]
    return [text for text in frequent if len(split.pre_tokenize_str(text)) > 1]
