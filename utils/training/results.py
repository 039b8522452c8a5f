"""One run, one JSON: from these files alone tables and figures take their numbers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import environment
from utils.data.manifest import Manifest, manifest_sha256
from utils.fields import check_choice
from utils.files import read_json, replacing
from utils.training.recipes import current_name
from utils.training.run_folder import TrainingError, differences_in_words, more_epochs

if TYPE_CHECKING:
    from utils.training.config import RunConfig

SCHEMA = 1
KINDS = ("train", "ablation", "benchmark")
STATUSES = ("running", "complete", "failed")
# task: names in a result and of their Keras metrics; "loss" is the cross-entropy alone
REPORTED = {
    "classification": {"loss": "cross_entropy", "top1": "top1", "top5": "top5"},
    "localization": {
        "loss": "cross_entropy", "top1": "top1", "top5": "top5", "iou": "iou",
        "localized": "localized",
    },
    "segmentation": {"loss": "cross_entropy", "accuracy": "pixel_accuracy", "iou": "mean_iou"},
}  # fmt: skip
LOGGED = {  # what the epoch lines show of these, as percentages
    "classification": ("top1", "top5"),
    "localization": ("top1", "iou", "localized"),
    "segmentation": ("accuracy", "iou"),
}
TITLES = {
    "loss": "cross-entropy", "top1": "top-1", "top5": "top-5", "iou": "IoU",
    "localized": "localized", "accuracy": "pixel accuracy",
}  # fmt: skip
COSTS = ("learning_rate", "seconds", "images_per_second", "peak_rss_mb")  # per epoch


def history_names(task: str = "classification") -> tuple[str, ...]:
    """The lists in a history: the task's metrics in training and on the split, and the costs."""
    reported = tuple(REPORTED[task])
    return (*reported, *(f"val_{name}" for name in reported), *COSTS)


def result_path(results_dir: str | Path, run_id: str) -> Path:
    """Where the JSON of a run is."""
    return Path(results_dir) / f"{run_id}.json"


def new_result(config: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """The result of a run that has not begun.

    Args:
        config: of the run.
        manifest: of its dataset.

    Returns:
        Dict in the schema of one run's JSON, its lists empty.
    """
    env = environment.describe(config.precision)
    if (env["git_commit"] or "").endswith("-dirty"):
        print("The project has uncommitted changes: no commit will make this result again.")
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "kind": config.kind,
        "status": "running",
        "command": config.command,
        "preset": config.preset,
        "recipe": config.recipe,
        "task": config.task,
        "config": config.identity(),
        "seed": config.seed,
        "dataset": {
            "name": manifest["dataset"],
            "split": config.split,
            "manifest_sha256": manifest_sha256(manifest),
            "counts": manifest["counts"],
            "synthetic": manifest["synthetic"],
        },
        "model": {},
        "history": {name: [] for name in history_names(config.task)},
        "metrics": {},
        "seconds": {},
        "env": env,  # of the last leg
        "legs": [],  # see `utils.training.run_folder.TrainState`
    }


def write_result(path: str | Path, result: dict[str, Any]) -> None:
    """Writes a result whole or not at all.

    Args:
        path: the `.json` file.
        result: as `new_result` makes it; accuracies are fractions in [0, 1].

    Raises:
        ValueError: unknown kind or status, or history lists of unequal lengths.
    """
    for field, valid in (("kind", KINDS), ("status", STATUSES)):
        check_choice(field, result[field], valid)
    lengths = {name: len(values) for name, values in result["history"].items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"history lists must have one value per epoch. Received lengths: {lengths}"
        )
    with replacing(path, "w") as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.write("\n")


def write_benchmark(path: str | Path, measured: dict[str, Any]) -> None:
    """Writes what a benchmark measured as a result that is named by its file.

    Args:
        path: the `.json` file.
        measured: its command and its env, and whatever it measured.
    """
    common = {"schema": SCHEMA, "run_id": Path(path).stem, "kind": "benchmark"}
    write_result(path, {**common, "status": "complete", "history": {}, **measured})


def read_result(path: str | Path) -> dict[str, Any]:
    """Reads a result, of this version or an older one.

    Args:
        path: the `.json` file.

    Returns:
        The result; its recipe and its command are as they would be today.

    Raises:
        ValueError: the file is not a result; names it.
    """
    result = read_json(path, "delete it, and the command of its run writes it anew")
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        schema = result.get("schema") if isinstance(result, dict) else None
        raise ValueError(f"{path}: schema must be {SCHEMA}. Received: {schema}")
    config, command = result.get("config", {}), result.get("command", "")
    if old := config.get("recipe"):
        new = current_name(old, config.get("recipe_fields", {}).get("version", 1))
        result["recipe"] = config["recipe"] = new
        command = re.sub(rf"-p recipe {old}(?= |$)", f"-p recipe {new}", command)
    if command:  # class order has no other window now
        result["command"] = command.replace(" -p shuffle_window 1000", "")
    return result


def read_complete(path: str | Path) -> dict[str, Any]:
    """Reads a result, as `read_result`, of a run that must be complete.

    Args:
        path: the `.json` file.

    Raises:
        ValueError: the run is not complete, or the file not a result; names it.
    """
    result = read_result(path)
    if result["status"] != "complete":
        raise ValueError(f"{Path(path).stem} is not complete; run it to its end first.")
    return result


def complete_result(config: RunConfig, manifest_sha256: str | None = None) -> dict[str, Any] | None:
    """The result of a run if it is complete, wherever the run was trained.

    Results, predictions and weights are named after the run's id alone, the last part of its
    run_dir: what stands there must be this very run's.

    Args:
        config: of the run.
        manifest_sha256: of its dataset; None: not compared.

    Returns:
        The result; None if there is none, or not a complete one.

    Raises:
        TrainingError: there is a result, but another run's; names both and what differs.
    """
    path = config.result_file
    if not path.exists():
        return None
    found = read_result(path)
    complete = found["status"] == "complete"
    run_dir = config.resolve().run_dir
    remedy = "Use another run_dir, whose last part names the result"
    if Path(run_dir, "config.json").exists():  # which refuses other parameters as well
        remedy += ", or the same parameters."
    else:
        remedy += ", another results_dir, or move that file away."
    if not found.get("config") or (complete and not found["history"]):
        raise TrainingError(f"{path} is not the result of a training. {remedy}")
    dataset = {"manifest_sha256": found.get("dataset", {}).get("manifest_sha256")}
    if differences := config.differences(found["config"] | dataset, manifest_sha256):
        raise TrainingError(
            f"{path} is the result of another run, not of the one that is asked for in {run_dir} "
            f"({differences_in_words(differences)}). "
            f"{more_epochs(run_dir, differences) or remedy}"
        )
    return found if complete else None


def epoch_line(result: dict[str, Any], epoch: int) -> str:
    """The log's line about an epoch, counted from 0."""
    at = {name: values[epoch] for name, values in result["history"].items()}
    shown = LOGGED[result["task"]]
    train = " ".join(f"{TITLES[name]} {at[name]:.1%}" for name in shown)
    val = "not evaluated"
    if at["val_loss"] is not None:
        values = [f"{at['val_loss']:.3f}", *(f"{at[f'val_{name}']:.1%}" for name in shown)]
        val = " ".join([result["dataset"]["split"], *values])
    return (
        f"epoch {epoch + 1}/{result['config']['epochs']} loss {at['loss']:.3f} {train} | "
        f"{val} | lr {at['learning_rate']:.2g} | {at['seconds']:.0f} s "
        f"{at['images_per_second']:.0f} images/s {at['peak_rss_mb'] / 1024:.1f} GiB"
    )


def training_env(result: dict[str, Any]) -> dict[str, Any]:
    """Machine and versions with which a run began to be trained; of others those they ran with."""
    return legs_of(result)[0].get("env", {})


def legs_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a run, each with the environment that it was trained in."""
    return result.get("legs") or [result]  # older results have no legs


def devices_of(result: dict[str, Any]) -> list[str]:
    """Names of the devices on which a run was trained, in their order, each once.

    A leg that began after the last epoch does not count: in it the run was only evaluated.
    """
    legs, epochs = legs_of(result), len(result["history"].get("seconds", []))
    legs = [leg for leg in legs if leg.get("epoch", 0) < epochs] or legs[:1]
    return list(dict.fromkeys(leg["env"]["device"] for leg in legs))


def elapsed(result: dict[str, Any], epochs: int | None = None) -> float:
    """How long the first epochs of a run take.

    Args:
        result: of a training.
        epochs: how many; None: all.

    Returns:
        Seconds. Where `utils.experiments.benchmark` measured an epoch on an idle machine, a
        multiple of it; otherwise as in the history, and NaN if the run moved to another device.
    """
    seconds = result["history"]["seconds"][:epochs]
    if alone := result.get("seconds", {}).get("epoch"):
        return alone * len(seconds)
    return sum(seconds) if len(devices_of(result)) == 1 else math.nan


def device_name(result: dict[str, Any]) -> str:
    """The devices on which a run was trained, as "an H100, then a CPU"."""
    return ", then ".join(devices_of(result))


def read_results(results_dir: str | Path) -> list[dict[str, Any]]:
    """All results of a folder, by name, as `read_result` reads them."""
    return [read_result(path) for path in sorted(Path(results_dir).glob("*.json"))]


def load_results(results_dir: str | Path) -> list[dict[str, Any]]:
    """All runs that may stand in a results table: complete trainings on real Tiny ImageNet.

    Args:
        results_dir: folder of result JSONs.

    Returns:
        List of results, the best top-1 on the validation set last.
    """
    results = filter(is_reportable, read_results(results_dir))
    return sorted(results, key=lambda result: result["metrics"]["top1"])


def is_reportable(result: dict[str, Any]) -> bool:
    """Whether a result may stand in a results table."""
    return (
        result["kind"] == "train"
        and result["task"] == "classification"
        and result["status"] == "complete"
        and result["dataset"]["name"] == "tiny-imagenet"
        and not result["dataset"]["synthetic"]
        and result["metrics"]["split"] == "val"
        and result["config"].get("fraction", 1) == 1
    )
