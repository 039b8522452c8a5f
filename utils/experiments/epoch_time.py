"""Seconds of an epoch of each reported run: `python -m utils.experiments.epoch_time`.

A run lasts for hours in which its machine may have other work, so that the seconds of its history
cannot be compared with another run's. This trains each one again, for a few epochs on a tenth of
the images, and writes what a whole epoch would take into the run's result. The machine must be
idle, and of the kind that trained the run. Compare the seconds of one such measurement alone:
another day, or another machine of the same name, may be faster.
"""

import argparse
import json
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
    """Seconds of a whole epoch, from the fastest of a short run after the first, which compiles.

    Args:
        history: of the run, evaluated after each epoch on as many images as a whole one is.
        images: that each of its epochs trained on.

    Returns:
        Those of the training, for all images, and of the evaluation.
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
    parser.add_argument("--again", action="store_true", help="also where it is known")
    options = parser.parse_args()
    commit = environment.describe()["git_commit"]  # before a result is changed
    found = [result for result in load_results(options.results_dir) if is_measurable(result)]
    known = {} if options.again else {
        _key(result): (result["seconds"]["epoch"], result["epoch_env"])
        for result in found if "epoch" in result["seconds"]
    }  # fmt: skip
    for result in found:
        if "epoch" in result["seconds"] and not options.again:
            continue
        if (key := _key(result)) not in known:
            known[key] = _measured(result, commit)
        path = result_path(Path(options.results_dir), result["run_id"])
        stored = read_json(path, "restore it")
        stored["seconds"]["epoch"], stored["epoch_env"] = known[key]
        write_result(path, stored)
        print(f"{known[key][0]:7.1f} s an epoch | {result['run_id']}", flush=True)


def _key(result: dict[str, Any]) -> str:
    """What runs that take equally long have in common: all but seed and epochs."""
    return json.dumps([result["env"]["backend"], measured_options(result)])


def _measured(result: dict[str, Any], commit: str | None) -> tuple[float, dict[str, Any]]:
    """Seconds of an epoch, and where they were measured."""
    row = measure("training", backend=result["env"]["backend"], **measured_options(result))
    if "error" in row:
        raise RuntimeError(f"{result['run_id']}: {row['error']}")
    images = round(FRACTION * result["dataset"]["counts"]["train"])
    images -= images % result["config"]["batch_size"]
    seconds = round(epoch_seconds(row["history"], images), 1)
    return seconds, {**row["env"], "git_commit": commit}


if __name__ == "__main__":
    main()
