"""Next-token loss (nats per target token), the validation and warm-up loss of the paper."""

import torch
import torch.nn.functional as F


def next_token_loss(model, batch):
    """(mean negative log-likelihood over target tokens as a scalar tensor, number of target tokens as int).

    Only positions with a target go through the LM head, so no [batch, length, vocabulary] logits are made.
    batch: input_ids, attention_mask, labels, each [B, L]; labels are -100 where there is no target.
    """
    targets_BL = batch["labels"][:, 1:]
    keep_BL = targets_BL != -100
    hidden_BLD = model.get_decoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
    logits_TV = model.get_output_embeddings()(hidden_BLD[:, :-1][keep_BL])
    logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if softcap:
        logits_TV = softcap * (logits_TV / softcap).tanh()
    return F.cross_entropy(logits_TV, targets_BL[keep_BL]), int(keep_BL.sum())
