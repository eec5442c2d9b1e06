"""What is optimized, through TRL: supervised fine-tuning, GRPO and GSPO, with their rewards and learning rates."""
