"""Speed and memory of training, each setting measured in a process of its own.

`measure` starts the process; `utils.experiments.benchmark_tasks` has what runs in it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any


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
