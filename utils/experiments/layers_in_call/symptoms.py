"""Which of the course report's symptoms each way of re-creating layers shows."""

from collections.abc import Mapping
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

CHANCE = 1 / 200  # top-1 of a guess among the classes

# When a symptom counts as shown, beside the network without the fault. There memory creeps, too, as
# allocators warm up, and CPU seconds differ by a tenth from epoch to epoch. Two thirds: the course
# report's training accuracy is 0.6 of what its recipe gives here after a third of its epochs, its
# validation accuracy a quarter of what goes with such a training accuracy.
LIMITS = {
    "memory": 10.0,  # growth for each call of the network, above it
    "seconds": 1.2,  # CPU time of the last epoch over that of the second, above it
    "train": 2 / 3,  # training top-1 after as many epochs, below it
    "val": 2 / 3,  # validation top-1 at the same training top-1, below it
}


def symptoms(results_dir: str | Path = "report/results") -> pd.DataFrame:
    """Gathers what the runs of `train` measured.

    Graph error, memory and seconds are from an eager run of few steps; accuracies are the means
    over the seeds of the twin's runs, which hold for each manner. What no run shows is NaN.

    Args:
        results_dir: folder of the results.

    Returns:
        Table with a row for each variant that has a result, and the columns network, which, manner,
        graph_error (whether the graph stops with the course report's error), memory (MiB for each
        call of the network, from the second epoch on), variables (that optimizer and model
        have more, for each call), seconds (CPU time of the last epoch over that of the second),
        epochs, seeds, train_top1 (of the last epoch), val_top1 (of the hold-out) and
        evaluated_train_top1 (of training images, evaluated as the hold-out is); and for each key
        of `LIMITS` a column times_memory, times_seconds, ...: how many times what the network
        without the fault has.

    Raises:
        FileNotFoundError: if there is no result of the network without the fault.
    """
    once = accuracies(results_dir, "none")
    eager = result_path(results_dir, run_id("simple", "none", "once", 0))
    for manner, options, exists in (
        ("twin", "", bool(once)),
        ("once", " --steps 15", eager.exists()),
    ):
        if not exists:
            missing = run_id("simple", "none", manner, 0)
            command = "python -m utils.experiments.layers_in_call.train --manner"
            raise FileNotFoundError(
                f"{results_dir} has no {missing}.json; run {command} {manner}{options} first."
            )
    sound = growth(read_result(eager))
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
                times = {
                    f"times_{name}": measured[name] / sound[name]
                    for name in ("memory", "seconds")
                    if measured
                }
                name = {"network": network, "which": which, "manner": manner}
                rows.append(name | measured | times | learned)
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
    sound = {
        name: np.mean([once[seed][name][:epochs] for seed in seeds], axis=0)
        for name in ("top1", "val_top1")
    }
    return {
        "epochs": epochs,
        "seeds": len(seeds),
        "train_top1": train,
        "val_top1": val,
        "evaluated_train_top1": mean(runs, "evaluated_train_top1"),
        **beside(train, val, sound),
    }


def beside(train: float, val: float, sound: Mapping[str, Any]) -> dict[str, float]:
    """Sets accuracies beside those of the network without the fault.

    A network that has learned less has a lower validation accuracy for that alone, and one that is
    trained for longer a wider gap: so validation is compared at the same training accuracy.

    Args:
        train: training top-1.
        val: validation top-1.
        sound: histories `top1` and `val_top1` of the network without the fault.

    Returns:
        times_train (over the last epoch's) and times_val (over validation top-1 at the same
        training top-1, linear between epochs).
    """
    order = np.argsort(sound["top1"])
    tops, vals = (np.asarray(sound[name])[order] for name in ("top1", "val_top1"))
    return {
        "times_train": train / sound["top1"][-1],
        "times_val": val / float(np.interp(train, tops, vals)),
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
        "memory": for_each_call(history["rss_mb"]),
        "variables": for_each_call(variables),
        "seconds": history["cpu_seconds"][-1] / history["cpu_seconds"][1],
    }


def verdicts(row: pd.Series) -> dict[str, str | None]:
    """Which symptoms a row of `symptoms` shows.

    Returns:
        For each of graph_error, memory, seconds, train and val: "shown"; "chance" where an accuracy
        is so low that the network guesses, which the course report's did not; "not shown"; or None,
        where no run says.
    """
    found = {"graph_error": row["graph_error"]}
    for name, limit in LIMITS.items():
        times = row[f"times_{name}"]
        beyond = times > limit if limit > 1 else times < limit
        found[name] = None if pd.isna(times) else beyond
    verdict: dict[str, str | None] = {
        name: None if pd.isna(value) else "shown" if value else "not shown"
        for name, value in found.items()
    }
    for name in ("train", "val"):
        if row[f"{name}_top1"] < 2 * CHANCE:
            verdict[name] = "chance"
    return verdict
