"""One run, one JSON: the only way that numbers take from training to tables and figures."""

import json
from pathlib import Path

from utils import environment
from utils.files import replacing

SCHEMA = 1
KINDS = ("train", "ablation", "benchmark")
STATUSES = ("running", "complete", "failed")
# of each task: name in a result, name of its Keras metric; "loss" is the cross-entropy alone
REPORTED = {
    "classification": {"loss": "cross_entropy", "top1": "top1", "top5": "top5"},
    "localization": {
        **{"loss": "cross_entropy", "top1": "top1", "top5": "top5"},
        **{"iou": "iou", "localized": "localized"},
    },
    "segmentation": {"loss": "cross_entropy", "accuracy": "pixel_accuracy", "iou": "mean_iou"},
}
LOGGED = {  # of these, what the epoch lines show, as percentages
    "classification": ("top1", "top5"),
    "localization": ("top1", "iou", "localized"),
    "segmentation": ("accuracy", "iou"),
}
TITLES = {
    **{"loss": "cross-entropy", "top1": "top-1", "top5": "top-5", "iou": "IoU"},
    **{"localized": "localized", "accuracy": "pixel accuracy"},
}
COSTS = ("learning_rate", "seconds", "images_per_second", "peak_rss_mb")  # of each epoch


def history_names(task="classification"):
    """The lists of a history: what a task reports, on train and on the split, and what it costs."""
    reported = tuple(REPORTED[task])
    return (*reported, *(f"val_{name}" for name in reported), *COSTS)


def result_path(results_dir, run_id):
    """Where the JSON of a run is."""
    return Path(results_dir) / f"{run_id}.json"


def new_result(config, manifest, manifest_sha256):
    """The result of a run that has not begun.

    Args:
        config: a `RunConfig`.
        manifest: of its dataset.
        manifest_sha256: of the manifest's file.

    Returns:
        Mapping in the schema of the design, its lists empty.
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
            "manifest_sha256": manifest_sha256,
            "counts": manifest["counts"],
            "synthetic": manifest["synthetic"],
        },
        "model": {},
        "history": {name: [] for name in history_names(config.task)},
        "metrics": {},
        "seconds": {},
        "env": env,
    }


def write_result(path, result):
    """Writes a result whole or not at all.

    Args:
        path: the `.json` file.
        result: mapping in the schema of the design; accuracies are fractions in [0, 1].

    Raises:
        ValueError: unknown kind or status, or history lists of unequal lengths.
    """
    for field, valid in (("kind", KINDS), ("status", STATUSES)):
        if result[field] not in valid:
            raise ValueError(
                f"{field} must be one of {', '.join(valid)}. Received: {result[field]}"
            )
    lengths = {name: len(values) for name, values in result["history"].items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history lists must have one value an epoch. Received lengths: {lengths}")
    with replacing(path, "w") as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.write("\n")


def read_result(path):
    """Reads a result; `ValueError` that names the file when it is none."""
    try:
        result = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a result JSON ({error})") from error
    if result.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema must be {SCHEMA}. Received: {result.get('schema')}")
    return result


def epoch_line(result, epoch):
    """The log's line about an epoch, counted from 0."""
    at = {name: values[epoch] for name, values in result["history"].items()}
    shown = LOGGED[result["task"]]
    train = " ".join(f"{TITLES[name]} {at[name]:.1%}" for name in shown)
    val = " ".join(f"{at[f'val_{name}']:.1%}" for name in shown)
    return (
        f"epoch {epoch + 1}/{result['config']['epochs']} loss {at['loss']:.3f} {train} | "
        f"{result['dataset']['split']} {at['val_loss']:.3f} {val} | "
        f"lr {at['learning_rate']:.2g} | {at['seconds']:.0f} s "
        f"{at['images_per_second']:.0f} images/s {at['peak_rss_mb'] / 1024:.1f} GiB"
    )


def load_results(results_dir):
    """All runs that may stand in a results table: complete trainings on real Tiny ImageNet.

    Args:
        results_dir: folder of result JSONs.

    Returns:
        List of results, best val top-1 last.
    """
    results = [read_result(path) for path in sorted(Path(results_dir).glob("*.json"))]
    return sorted((r for r in results if is_reportable(r)), key=lambda r: r["metrics"]["top1"])


def is_reportable(result):
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
