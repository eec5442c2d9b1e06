"""Training stage: the final post-training of one run, SFT, GRPO or GSPO, from the original weights (Section 3.4)."""
