"""Conversations -> token batches with a next-token loss on the assistant's part only.

The prompt is rendered with the chat template's generation prompt, exactly as at inference; the target is the
assistant's text plus the end-of-sequence token.
"""

import torch


def encode(tokenizer, messages, max_length):
    """(token ids, number of prompt tokens) of one conversation, cut to `max_length`; the last message is the target."""
    text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    target = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return (prompt + target)[:max_length], min(len(prompt), max_length)


def collate(encoded, pad_id, device="cpu"):
    """Right-padded tensors from a list of (ids, prompt length): input_ids, attention_mask, labels [batch, length], targets.

    Labels are -100 on the prompt and the padding. targets: the positions, in the flattened [batch * length], whose next
    one has a label; found here, on the processor, as asking a GPU for it would wait for all it has to do.
    """
    length = max(len(ids) for ids, _ in encoded)
    ids_BL = torch.full((len(encoded), length), pad_id, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    labels_BL = torch.full_like(ids_BL, -100)
    for row, (ids, prompt) in enumerate(encoded):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = 1
        labels_BL[row, prompt : len(ids)] = torch.tensor(ids[prompt:])
    row, column = (labels_BL[:, 1:] != -100).nonzero(as_tuple=True)
    targets_T = row * length + column
    batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL, "targets": targets_T}
    if torch.device(device).type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
    return batch


def doubled(batch):
    """The batch twice, one copy below the other."""
    both = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items() if name != "targets"}
    return both | {"targets": torch.cat([batch["targets"], batch["targets"] + batch["labels"].numel()])}
