"""Export: a trained policy as a folder of its own, for other tools. Not a stage: nothing in the pipeline depends on it."""
