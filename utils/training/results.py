"""One run, one JSON: the only way that numbers take from training to tables and figures."""

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from utils import environment
from utils.analysis.predictions import confused_images
from utils.training.checkpoints import replacing
from utils.training.tasks import TASKS, TITLES

SCHEMA = 1
KINDS = ("train", "ablation", "benchmark")
STATUSES = ("running", "complete", "failed")
SAMPLES = 48  # images kept of each run, drawn at random, the same ones
COSTS = ("learning_rate", "seconds", "images_per_second", "peak_rss_mb")  # of each epoch

# The course report's table (E4040, Fall 2021); accuracies are fractions.
REPORT = pd.DataFrame(
    [
        ("simple", 667_584, 64, 0.236, 0.053),
        ("medium", 1_034_440, None, 0.301, 0.085),
        ("complex", 1_797_960, 139, 0.504, 0.188),
        ("resnet_report", 23_731_848, 13, 1.0, 0.202),
    ],
    columns=["preset", "parameters", "seconds_per_epoch", "train_top1", "val_top1"],
).set_index("preset")

# Published val top-1 on Tiny ImageNet of networks trained from nothing, as fractions; their MACs
# depend on stems that the sources do not all give.
LITERATURE = pd.DataFrame(
    [("ResNet-18", 11.3e6, 0.653), ("ResNet-50", 23.9e6, 0.693), ("fastai ResNet", 20e6, 0.593)],
    columns=["name", "parameters", "top1"],
)

# Published single-crop top-1 on ImageNet-1k at 224x224, as fractions: FishNet with the authors'
# code, the others in the documentation of keras.applications. Parameters in
# millions.
IMAGENET = pd.DataFrame(
    [
        ("FishNet", "99", 16.63, 0.7741),
        ("FishNet", "150", 24.96, 0.7814),
        ("FishNet", "201", 44.58, 0.7876),
        ("ResNet", "50", 25.6, 0.749),
        ("ResNet", "101", 44.7, 0.764),
        ("ResNet", "152", 60.4, 0.766),
        ("DenseNet", "121", 8.1, 0.750),
        ("DenseNet", "169", 14.3, 0.762),
        ("DenseNet", "201", 20.2, 0.773),
    ],
    columns=["family", "name", "parameters", "top1"],
)


def history_names(task="classification"):
    """The lists of a history: what a task reports, on train and on the split, and what it costs."""
    reported = tuple(TASKS[task].reported)
    return (*reported, *(f"val_{name}" for name in reported), *COSTS)


def result_path(results_dir, run_id):
    """Where the JSON of a run is."""
    return Path(results_dir) / f"{run_id}.json"


def is_kept(result):
    """Whether a run's weights and predictions are to be committed beside its result."""
    return result["kind"] == "train" and not result["dataset"]["synthetic"]


def predictions_path(result_file, run_dir, result):
    """Where a run's predictions are: beside its JSON, or in its folder if they are not kept."""
    folder = Path(result_file).parent if is_kept(result) else Path(run_dir)
    return folder / f"{result['run_id']}.npz"


def new_result(config, manifest, manifest_sha256):
    """The result of a run that has not begun.

    Args:
        config: a `RunConfig`.
        manifest: of its dataset.
        manifest_sha256: of the manifest's file.

    Returns:
        Mapping in the schema of the design, its lists empty.
    """
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "kind": config.kind,
        "status": "running",
        "command": config.command,
        "preset": config.preset,
        "recipe": config.recipe,
        "task": config.task,
        "config": {**config.identity(), "recipe_fields": asdict(config.full_recipe)},
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
        "env": environment.describe(config.precision),
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
    shown = TASKS[result["task"]].in_percent
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


def results_table(results):
    """The results table, our runs beside the report's rows.

    Args:
        results: as `load_results` returns them.

    Returns:
        `pandas.DataFrame`, a row a run: parameters, MACs, epochs, seconds an epoch, device,
        training and val accuracies as fractions, val top-1 with mirror images and of averaged
        weights in columns of their own, and the report's numbers of the same network.
    """
    rows = []
    for result in results:
        history, report = result["history"], REPORT.reindex([result["preset"]]).iloc[0]
        rows.append(
            {
                "run": result["run_id"],
                "preset": result["preset"],
                "recipe": result["recipe"],
                "parameters": result["model"]["parameters"],
                "MACs": result["model"]["macs"],
                "epochs": len(history["loss"]),
                "s / epoch": float(np.median(history["seconds"])),
                "device": result["env"]["device"],
                "train top-1": history["top1"][-1],
                "val top-1": result["metrics"]["top1"],
                "val top-5": result["metrics"]["top5"],
                "val top-1, mirrored too": result.get("metrics_flip", {}).get("top1"),
                "val top-1, averaged weights": result.get("metrics_ema", {}).get("top1"),
                "report: parameters": report["parameters"],
                "report: s / epoch": report["seconds_per_epoch"],
                "report: train top-1": report["train_top1"],
                "report: val top-1": report["val_top1"],
            }
        )
    return pd.DataFrame(rows)


def save_predictions(path, *, probabilities, labels, manifest, images, samples=SAMPLES, seed=0):
    """Keeps what the analysis needs of a run's predictions, in some hundred kilobytes.

    Args:
        path: the `.npz` file.
        probabilities: (images, classes), of the softmax.
        labels: (images,) from 0.
        manifest: of the dataset.
        images: the JPEG bytes of the same images, in the same order.
        samples: how many of them are kept for the sheet of predictions, drawn at random; the
            images of the most confused classes are kept behind these.
        seed: of that draw, so that every run keeps the same images.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    predictions = {
        "labels": labels.astype(np.uint16),
        "classes": order.astype(np.uint16),
        "probabilities": np.take_along_axis(probabilities, order, axis=1).astype(np.float16),
        "words": np.array(manifest["words"]),
    }
    drawn = np.sort(np.random.default_rng(seed).permutation(len(labels))[:samples])
    kept = np.array([*drawn, *itertools.chain(*confused_images(predictions))], int)
    encoded = [np.frombuffer(images[i], np.uint8) for i in kept]
    with replacing(path) as file:
        np.savez_compressed(
            file,
            **predictions,
            sample=kept.astype(np.uint32),
            jpeg=np.concatenate(encoded),
            jpeg_sizes=np.array([len(e) for e in encoded], np.uint32),
        )


def load_predictions(path):
    """Reads what `save_predictions` wrote.

    Args:
        path: the `.npz` file.

    Returns:
        Dict: labels (images,), classes and probabilities (images, 5) of the five most probable,
        words (classes,), sample (samples,) indices, and jpeg, the samples' bytes.
    """
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    ends = np.cumsum(kept.pop("jpeg_sizes"))
    kept["jpeg"] = [part.tobytes() for part in np.split(kept["jpeg"], ends[:-1])]
    return kept
