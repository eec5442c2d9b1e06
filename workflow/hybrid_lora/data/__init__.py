"""Data: corpora to train on and benchmarks to evaluate on, from the hub, a local file or our own generator."""
