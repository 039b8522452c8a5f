"""Seconds of an epoch of each reported run: `python -m utils.experiments.epoch_time`.

A run lasts for hours in which its machine may have other work, so that the seconds of its history
cannot be compared with another run's. This trains each one again, for a few epochs on a tenth of
the images, and writes what a whole epoch would take into the run's result. The machine must be
idle, and of the kind that trained the run. `--again` measures once more and keeps what is less.
"""

import argparse
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from utils import environment
from utils.experiments.benchmark import measure
from utils.files import read_json
from utils.training.config import RunConfig
from utils.training.results import device_name, load_results, result_path, write_result

FRACTION = 0.1  # of the training images
EPOCHS = 3  # the first compiles and does not count


def measured_options(result: dict[str, Any]) -> dict[str, Any]:
    """The short run that is measured in place of a run.

    Args:
        result: of the run.

    Returns:
        Fields of a `RunConfig` that are not the default: the run's own, except for what makes it
        long and for its seed.
    """
    usual = {field.name: field.default for field in fields(RunConfig)}
    given = {name: value for name, value in result["config"].items() if name in usual}
    short = {"epochs": EPOCHS, "fraction": FRACTION, "kind": "ablation", "seed": 0}
    return {name: value for name, value in (given | short).items() if value != usual[name]}


def epoch_seconds(history: dict[str, list[float]], images: int) -> float:
    """Seconds of a whole epoch, from a short run's fastest: other processes only slow one down.

    Args:
        history: of the run, evaluated after each epoch on as many images as a whole one is.
        images: that each of its epochs trained on.

    Returns:
        The training, times the share of the images that was left out, and the evaluation.
    """
    epochs = zip(history["seconds"][1:], history["images_per_second"][1:], strict=True)
    train_and_rest = [(images / speed, seconds - images / speed) for seconds, speed in epochs]
    return min(train / FRACTION + rest for train, rest in train_and_rest)


def is_measurable(result: dict[str, Any]) -> bool:
    """Whether all epochs of a run take equally long, on a machine of this kind."""
    return (
        result["config"].get("image_sizes") is None
        and device_name(result) == environment.describe()["device"]
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.experiments.epoch_time",
        description="Measures an epoch of each run; keep the machine idle.",
    )
    parser.add_argument("--results-dir", default="report/results")
    parser.add_argument("--again", action="store_true", help="where it is known, too: less counts")
    options = parser.parse_args()
    env = environment.describe()  # before a result is changed: of a clean checkout
    measured: dict[str, float] = {}  # by what was run: seeds take equally long
    for result in load_results(options.results_dir):
        if not is_measurable(result) or ("epoch" in result["seconds"] and not options.again):
            continue
        run = measured_options(result)
        if (key := json.dumps(run)) not in measured:
            row = measure("training", **run)
            if "error" in row:
                raise RuntimeError(f"{result['run_id']}: {row['error']}")
            images = round(FRACTION * result["dataset"]["counts"]["train"])
            images -= images % result["config"]["batch_size"]
            measured[key] = round(epoch_seconds(row["history"], images), 1)
        path = result_path(Path(options.results_dir), result["run_id"])
        stored = read_json(path, "restore it")
        if measured[key] < stored["seconds"].get("epoch", math.inf):
            stored["seconds"]["epoch"] = measured[key]
            stored["epoch_env"] = env | {"precision": result["env"]["precision"]}
            write_result(path, stored)
        print(f"{measured[key]:7.1f} s an epoch | {result['run_id']}", flush=True)


if __name__ == "__main__":
    main()
