"""The training command's work in this process, as its arguments say it."""

import argparse

from objective_settings import GRADING, LORA

from hybrid_lora.training import train


def trained(folder, model_folder, corpus_files, objective, placement, allocation=(), run="r", seed=0, state=None):
    """Train a tiny policy to folder/policy, with its history and samples beside it; corpus_files: (train, val)."""
    settings = {"run": run, "seed": seed, "placement": placement, "objective": objective, "grading": GRADING, "lora": LORA}
    train.run(
        argparse.Namespace(
            settings=settings,
            model=model_folder,
            train=corpus_files[0],
            val=corpus_files[1],
            allocation=list(allocation),
            programs=[],
            out=folder / "policy",
            history=folder / "history.parquet",
            trainable=folder / "trainable.json",
            samples=folder / "samples.parquet",
            state=state or folder / "state",
            workers=1,
        )
    )
