"""A byte-level BPE tokenizer trained on a corpus, digits one by one, with a chat template (as Qwen2's, smaller)."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hybrid_lora.common.errors import UserError

END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = ["<|im_start|>", END, PAD]
BYTES = 256
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(conversations, vocab_size):
    """A PreTrainedTokenizerFast with at most `vocab_size` entries, learned from lists of messages."""
    if vocab_size < BYTES + len(SPECIAL):
        raise UserError(f"tokenizer.vocab_size is {vocab_size}; a byte-level vocabulary needs at least {BYTES + len(SPECIAL)}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((m["role"] + "\n" + m["content"] for messages in conversations for m in messages), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, padding_side="left", chat_template=TEMPLATE
    )
