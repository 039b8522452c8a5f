"""Results for other programs: one CSV of all runs, and the metadata of a model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from utils.training.results import device_name, read_results, training_env

FIELDS = ("run_id", "kind", "status", "task", "preset", "recipe")
METRICS = ("top1", "top5", "loss", "iou", "localized", "accuracy")  # of all tasks


def results_csv(results_dir: str | Path) -> str:
    """Every training that has ended in one table: docs/results.md describes the columns.

    Args:
        results_dir: folder of result JSONs; those of benchmarks have no place in it.

    Returns:
        The text of a CSV file, a line for each run, sorted by its id.
    """
    done = [result for result in read_results(results_dir) if result["status"] != "running"]
    rows = [_row(result) for result in done if result["kind"] != "benchmark"]
    return pd.DataFrame(rows).astype({"macs": "Int64"}).to_csv(index=False, lineterminator="\n")


def _row(result: dict[str, Any]) -> dict[str, Any]:
    config, dataset, env = result.get("config", {}), result.get("dataset", {}), training_env(result)
    return {
        **{name: result[name] for name in FIELDS},
        "epochs": config.get("epochs"),
        "seed": result["seed"],
        "dataset": dataset["name"],
        "fraction": config.get("fraction", 1.0),
        "split": dataset["split"],
        **{name: result["metrics"].get(name) for name in METRICS},
        **result["model"],
        "seconds": result["seconds"].get("total"),
        "epoch_seconds": result["seconds"].get("epoch"),
        "device": device_name(result),
        **{name: env.get(name) for name in ("precision", "backend", "tensorflow", "jax")},
        "commit": env.get("git_commit"),
        "command": result["command"],
    }


def card_metadata(results: Sequence[dict[str, Any]]) -> str:
    """The front matter of a model card as the Hugging Face Hub reads it.

    Args:
        results: of the networks that the card is about, classifiers of Tiny ImageNet.

    Returns:
        YAML between two lines of three dashes, with the metrics of each network.
    """
    metadata = {
        "language": "en",
        "license": "other",
        "license_name": "imagenet-terms-of-access",
        "license_link": "https://image-net.org/download",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["fishnet", "image-classification", "tiny-imagenet"],
        "metrics": ["accuracy"],
        "model-index": [_index(result) for result in results],
    }
    text = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n"


def _index(result: dict[str, Any]) -> dict[str, Any]:
    shown = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy"}
    metrics = [
        {"type": "accuracy", "name": title, "value": round(result["metrics"][name], 4)}
        for name, title in shown.items()
    ]
    dataset = {"type": "tiny-imagenet-200", "name": "Tiny ImageNet-200", "split": "validation"}
    task = {"type": "image-classification", "name": "Image classification"}
    return {
        "name": result["run_id"],
        "results": [{"task": task, "dataset": dataset, "metrics": metrics}],
    }
