"""TensorBoard and Weights & Biases beside the log, by the configuration's `logging`, which reaches jobs as an environment
variable: it is no part of their settings, so changing it reruns nothing."""

import importlib
import importlib.util
import json
import os

from hybrid_lora.common import ranks
from hybrid_lora.common.errors import UserError

VARIABLE = "HYBRID_LORA_LOGGING"
FOLDER = "results/logs"
DEFAULTS = {"report_to": [], "project": "hybrid-lora", "wandb_mode": "offline", "variance_patience": 20}


def chosen():
    """The configuration's `logging`, DEFAULTS where a command is run by hand."""
    return DEFAULTS | json.loads(os.environ.get(VARIABLE) or "{}")


def arguments(run):
    """report_to and run_name for a Trainer's arguments; run: name of the run. UserError if a package is missing."""
    settings = chosen()
    for name in settings["report_to"]:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"logging.report_to: {name} is not installed here; pip install {name}, or take it out of the list")
    if "tensorboard" in settings["report_to"]:
        os.environ["TENSORBOARD_LOGGING_DIR"] = f"{FOLDER}/tensorboard/{run}"
    if "wandb" in settings["report_to"]:
        os.makedirs(f"{FOLDER}/wandb", exist_ok=True)
        os.environ |= {"WANDB_MODE": settings["wandb_mode"], "WANDB_PROJECT": settings["project"]}
        os.environ |= {"WANDB_DIR": f"{FOLDER}/wandb", "WANDB_NAME": run, "WANDB_SILENT": "true", "WANDB_WATCH": "false"}
        if settings["wandb_mode"] == "online" and ranks.first():
            _sign_in()
    return {"report_to": settings["report_to"] or "none", "run_name": run}


def _sign_in():
    """UserError where W&B has no key to go online with."""
    wandb = importlib.import_module("wandb")  # by name, as it is optional
    try:
        wandb.login()
    except wandb.errors.UsageError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"logging.wandb_mode is online: {reason} Or use offline") from None
