"""Grading: completions to verdicts. Shared by evaluation and by training's rewards; a library below the stages.

dispatch: rows of any kind to verdicts; math, choice, code: one grader each; sandbox: where a model's programs run; lines: the
graders by themselves, `python -m hybrid_lora.grading`.
"""
