"""Speed and memory of training, each setting measured in a process of its own.

`measure` starts the process; `utils.experiments.benchmark_tasks` has what runs in it.

A run lasts for hours in which its machine may have other work, so that the seconds of its history
cannot be compared with another run's. `python -m utils.experiments.benchmark` therefore trains each
reported run again, for a few epochs on a tenth of the images, and writes what a whole epoch would
take into its result. The machine must be idle, and of the kind that trained the run. Compare the
seconds of one such measurement alone: another day, or another machine of the same name, may be
faster.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils import environment
from utils.files import read_json
from utils.training.config import USUAL, RunConfig
from utils.training.results import (
    device_name,
    load_results,
    result_path,
    training_env,
    write_result,
)

FRACTION = 0.1  # of the training images that an epoch is measured with
EPOCHS = 3  # the first compiles and does not count


def measure(
    task: str, *, backend: str = "tensorflow", own_process: bool = True, **options: Any
) -> dict[str, Any]:
    """Runs a task.

    Args:
        task: a name in `utils.experiments.benchmark_tasks.TASKS`.
        backend: Keras backend.
        own_process: whether in a new process, where nothing that ran before is in the way; without,
            `backend` must be that of this process.
        **options: arguments of the task.

    Returns:
        Dict of the task, backend and options with what was measured, or with `error`, the last line
        that the process wrote.
    """
    row = {"task": task, "backend": backend, **options}
    if not own_process:
        from utils.experiments import benchmark_tasks  # loads Keras

        return {**row, **benchmark_tasks.TASKS[task](**options)}
    child = subprocess.run(
        [sys.executable, "-m", "utils.experiments.benchmark_tasks", task, json.dumps(options)],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if child.returncode:
        return {**row, "error": (child.stderr.strip() or "killed").splitlines()[-1]}
    return {**row, **json.loads(child.stdout.splitlines()[-1])}


def measured(task: str, **options: Any) -> dict[str, Any]:
    """Runs a task that must succeed.

    Args:
        task: as for `measure`.
        **options: likewise.

    Returns:
        What `measure` returns.

    Raises:
        RuntimeError: the measurement failed; says why.
    """
    row = measure(task, **options)
    if "error" in row:
        raise RuntimeError(f"The measurement of {task} failed: {row['error']}")
    return row


def best_of(rows: Iterable[dict[str, Any]], settings: Iterable[str]) -> list[dict[str, Any]]:
    """The best of the rows with the same settings: other processes can only slow one down.

    Args:
        rows: dicts as `measure` returns them.
        settings: names of the fields that hold the settings.

    Returns:
        The rows with the most images per second, in the order in which their settings first appear.
    """
    best: dict[str, dict[str, Any]] = {}
    speed = "images_per_second"  # failed measurements have none
    for row in rows:
        key = json.dumps([row.get(name) for name in settings])
        if key not in best or row.get(speed, 0) > best[key].get(speed, 0):
            best[key] = row
    return list(best.values())


def main_settings(networks: Iterable[str | list]) -> list[dict[str, Any]]:
    """The settings that each network is measured in: Keras' layers, and the fast ones.

    Args:
        networks: presets, or the fields of a `FishNetConfig` as a list.

    Returns:
        Options of the task "speed" for `measure`; of each network the unchanged Keras comes first.
    """
    return [_setting(network, fast_layers=fast) for network in networks for fast in (False, True)]


def other_settings(networks: Sequence[str | list]) -> list[dict[str, Any]]:
    """XLA, bfloat16 and, where it is installed, JAX: the first network in all, the rest in JAX.

    Args:
        networks: as for `main_settings`.

    Returns:
        Options of the task "speed" for `measure`.
    """
    first = networks[0]
    half = {"precision": "mixed_bfloat16"}
    settings = [_setting(first, fast_layers=fast, xla=True) for fast in (False, True)]
    settings += [_setting(first, fast_layers=fast, **half) for fast in (False, True)]
    if find_spec("jax"):
        settings += [
            _setting(first, backend="jax", fast_layers=False),
            _setting(first, backend="jax", **half),
            *(_setting(network, backend="jax") for network in networks),
        ]
    return settings


def _setting(network: str | list, **changes: Any) -> dict[str, Any]:
    usual = {"backend": "tensorflow", "precision": "float32", "xla": False, "fast_layers": True}
    return {"preset": network, **usual, **changes}


def measured_options(result: dict[str, Any]) -> dict[str, Any]:
    """The short run that is measured in place of a run.

    Args:
        result: of the run.

    Returns:
        Fields of a `RunConfig` that are not the default: the run's own, except for what makes it
        long and for its seed.
    """
    given = {name: value for name, value in result["config"].items() if name in USUAL}
    short = {"epochs": EPOCHS, "fraction": FRACTION, "kind": "ablation", "seed": 0}
    return {name: value for name, value in (given | short).items() if value != USUAL[name]}


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


def epochs_by_size(result: dict[str, Any]) -> Counter[int | None]:
    """How many epochs of a run train with images of which size, in pixels; None: as they are."""
    recipe, epochs = RunConfig(**measured_options(result)).full_recipe, result["config"]["epochs"]
    return Counter(recipe.phase(epoch, epochs)[0] for epoch in range(epochs))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.experiments.benchmark",
        description="Measures an epoch of each run; keep the machine idle.",
    )
    parser.add_argument("--results-dir", default="report/results", help="(%(default)s)")
    parser.add_argument("--again", action="store_true", help="also where it is known")
    options = parser.parse_args()
    here = environment.describe()  # its commit is that before a result is changed
    results = load_results(options.results_dir)
    found = [result for result in results if _of_machine(result, here)]
    known = {} if options.again else {
        _key(result): (result["seconds"]["epoch"], result["epoch_env"])
        for result in found if "epoch" in result["seconds"]
    }  # fmt: skip
    for result in found:
        if "epoch" in result["seconds"] and not options.again:
            continue
        if (key := _key(result)) not in known:
            known[key] = _measured(result, here["git_commit"])
        path = result_path(Path(options.results_dir), result["run_id"])
        stored = read_json(path, "restore it")
        stored["seconds"]["epoch"], stored["epoch_env"] = known[key]
        write_result(path, stored)
        print(f"{known[key][0]:7.1f} s an epoch | {result['run_id']}", flush=True)


def _of_machine(result: dict[str, Any], env: dict[str, Any]) -> bool:
    """Whether a run is of that kind of machine, as far as it is known: one name has several."""
    instructions = result.get("epoch_env", training_env(result)).get("instructions")
    return device_name(result) == env["device"] and instructions in (None, env["instructions"])


def _key(result: dict[str, Any]) -> str:
    """What runs that take equally long have in common: all but seed and epochs."""
    return json.dumps([result["env"]["backend"], measured_options(result)])


def _measured(result: dict[str, Any], commit: str | None) -> tuple[float, dict[str, Any]]:
    """Seconds of an epoch, the mean where sizes of images differ, and where they were measured."""
    images = round(FRACTION * result["dataset"]["counts"]["train"])
    images -= images % result["config"]["batch_size"]
    sizes, total = epochs_by_size(result), 0.0
    for size, epochs in sizes.items():
        options = measured_options(result) | ({"image_sizes": f"{size}x1"} if size else {})
        try:
            row = measured("training", backend=result["env"]["backend"], **options)
        except RuntimeError as error:
            raise RuntimeError(f"{result['run_id']}: {error}") from error
        total += epochs * epoch_seconds(row["history"], images)
    return round(total / sizes.total(), 1), {**row["env"], "git_commit": commit}


if __name__ == "__main__":
    main()
