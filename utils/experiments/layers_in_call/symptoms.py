"""Which of the course report's symptoms each way of making layers anew shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.experiments.layers_in_call.variants import (
    EVALUATED_TRAIN_BATCHES,
    LAYERS,
    MANNERS,
    run_id,
)
from utils.training.results import read_result, result_path

SINGLETON = "tf.function only supports singleton tf.Variables created on the first call"

# When a symptom counts as shown, in the units of `symptoms`.
LIMITS = {
    "memory": 5.0,  # MiB for 100 calls of the network, above it
    "seconds": 1.1,  # CPU time of the last epoch over that of the second, above it
    "train": 2 / 3,  # train top-1 over that without the fault, below it
    "val": 1 / 2,  # val top-1 over the run's own train top-1, below it
}


def symptoms(results_dir: str | Path = "report/results") -> pd.DataFrame:
    """Gathers what the runs of `train` measured.

    Graph error, memory and seconds are from an eager run of few steps; accuracies are the means
    over the seeds of the twin's runs, which hold for each manner. What no run shows is NaN.

    Args:
        results_dir: Folder of the results.

    Returns:
        Table with a row for each variant that has a result, and the columns network, which, manner,
        graph_error (whether the graph stops with the course report's error), memory (MiB for 100
        calls of the network, from the second epoch on), variables (that optimizer and model
        have more, for each call), seconds (CPU time of the last epoch over that of the second),
        epochs, seeds, train_top1 (of the last epoch), train (that over the run without the fault
        after as many epochs), val_top1 (of the hold-out), val (that over train_top1) and
        evaluated_train_top1 (of training images, evaluated as the hold-out is).

    Raises:
        FileNotFoundError: If there is no result of the network without the fault.
    """
    once = accuracies(results_dir, "none")
    if not once:
        raise FileNotFoundError(
            f"{results_dir} has no {run_id('simple', 'none', 'twin', 0)}.json; run "
            "python -m utils.experiments.layers_in_call.train --manner twin first."
        )
    rows = []
    for network in ("simple", "resnet_report"):
        for which in LAYERS:
            learned = learning(accuracies(results_dir, which), once) if network == "simple" else {}
            grown = {
                manner: growth(read_result(path))
                for manner in MANNERS
                if manner != "twin"
                and (path := result_path(results_dir, run_id(network, which, manner, 0))).exists()
            }
            if learned and not grown:
                grown = {"": {}}
            for manner, measured in grown.items():
                name = {"network": network, "which": which, "manner": manner}
                rows.append(name | measured | learned)
    return pd.DataFrame(rows)


def accuracies(results_dir: str | Path, which: str) -> dict[int, dict[str, Any]]:
    """The histories of the twin's runs by seed."""
    paths = {
        seed: result_path(results_dir, run_id("simple", which, "twin", seed)) for seed in (0, 1)
    }
    return {seed: read_result(path)["history"] for seed, path in paths.items() if path.exists()}


def learning(runs: dict[int, dict], once: dict[int, dict]) -> dict[str, float]:
    """What the accuracies say, over the seeds that both have and as many epochs as all of them."""
    seeds = runs.keys() & once.keys()
    if not seeds:
        return {}
    epochs = min(len(histories[seed]["top1"]) for seed in seeds for histories in (runs, once))

    def mean(histories: dict[int, dict], name: str) -> float:
        return float(np.mean([histories[seed][name][epochs - 1] for seed in seeds]))

    train, val = mean(runs, "top1"), mean(runs, "val_top1")
    return {
        "epochs": epochs,
        "seeds": len(seeds),
        "train_top1": train,
        "train": train / mean(once, "top1"),
        "val_top1": val,
        "val": val / train,
        "evaluated_train_top1": mean(runs, "evaluated_train_top1"),
    }


def growth(result: dict) -> dict[str, Any]:
    """What an eager run says of graph, memory and time."""
    history = result["history"]
    variables = np.add(history["model_variables"], history["optimizer_variables"])
    # Of the network from the end of the second epoch on: training, hold-out, training images.
    calls = (len(variables) - 2) * (2 * result["config"]["steps"] + EVALUATED_TRAIN_BATCHES)

    def for_each_call(values: Any) -> float:
        return float((values[-1] - values[1]) / calls)

    return {
        "graph_error": SINGLETON in (result["graph_error"] or ""),
        "memory": 100 * for_each_call(history["rss_mb"]),
        "variables": for_each_call(variables),
        "seconds": history["cpu_seconds"][-1] / history["cpu_seconds"][1],
    }


def shown(row: pd.Series) -> dict[str, bool | None]:
    """Which symptoms a row of `symptoms` shows; None where no run says."""
    above = {name: row[name] > LIMITS[name] for name in ("memory", "seconds")}
    below = {name: row[name] < LIMITS[name] for name in ("train", "val")}
    found = {"graph_error": row["graph_error"], **above, **below}
    return {name: None if pd.isna(row[name]) else bool(value) for name, value in found.items()}
