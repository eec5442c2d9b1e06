"""Evaluation: completions of a model, verdicts on them, and metrics; three files, so that regrading generates nothing."""
