"""The tracker of a run: TensorBoard, Weights & Biases or MLflow, through Accelerate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from accelerate import Accelerator

from reed import config
from reed.seeding import seed_for
from reed.train.log import name_for_mlflow
from reed.train.settings import TrainConfig

PROJECT = "reed"
TAG = "reed.run"  # of a run in MLflow: what tells the folder of the run


def start(accelerator: Accelerator, settings: TrainConfig) -> list[Any]:
    """Start the tracker that the recipe names, and return the trackers of the accelerator.

    A rerun continues the same run of the tracker.
    """
    if settings.tracker == "none":
        return accelerator.trackers

    # The id depends on the folder alone, so that a rerun has the same one.
    identity = f"{seed_for('tracker', str(settings.run.resolve())):x}"
    table, name = flat(config.plain(settings)), settings.run.name
    wandb = {"name": name, "dir": str(settings.run), "resume": "allow", "id": identity}
    options: dict[str, Any] = {"wandb": wandb}
    if settings.tracker == "mlflow":
        options["mlflow"], stored = _mlflow(identity, name)
        # MLflow refuses another value for a parameter; a rerun may change some settings.
        table = {name_for_mlflow(name): value for name, value in table.items()}
        table = {name: value for name, value in table.items() if name not in stored}
    accelerator.init_trackers(PROJECT, table, init_kwargs=options)
    if settings.tracker == "mlflow":  # Accelerate replaces tags by those of MLFLOW_TAGS
        import_module("mlflow").set_tag(TAG, identity)
    return accelerator.trackers


def flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names, which is what trackers take."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{where}{key}.")
        else:
            result[f"{where}{key}"] = value if isinstance(value, int | float | str) else str(value)
    return result


def _mlflow(identity: str, name: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Return the options of Accelerate's MLflow tracker, and the parameters that the run has.

    MLflow makes the ids of its runs itself, so the run of a folder is found by its tag.
    """
    client = import_module("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    wanted = f"tags.`{TAG}` = '{identity}'"
    found = client.search_runs([experiment.experiment_id], wanted) if experiment else []
    if not found:
        return {"run_name": name}, {}
    return {"run_id": found[0].info.run_id}, found[0].data.params
