"""Model stage: a Hugging Face folder in results/models/{model}/, fetched, linked or trained from scratch."""
