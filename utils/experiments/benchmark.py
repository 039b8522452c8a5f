"""Speed and memory of training, each setting measured in a process of its own.

`measure` starts the process; `utils.experiments.benchmark_tasks` has what runs in it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any


def measure(task: str, *, backend: str = "tensorflow", **options: Any) -> dict[str, Any]:
    """Runs a task in a new process.

    Args:
        task: a name in `utils.experiments.benchmark_tasks.TASKS`.
        backend: Keras backend.
        **options: arguments of the task.

    Returns:
        Dict of the task, backend and options with what was measured, or with `error`, the last line
        that the process wrote.
    """
    child = subprocess.run(
        [sys.executable, "-m", "utils.experiments.benchmark_tasks", task, json.dumps(options)],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    row = {"task": task, "backend": backend, **options}
    if child.returncode:
        return {**row, "error": (child.stderr.strip() or "killed").splitlines()[-1]}
    return {**row, **json.loads(child.stdout.splitlines()[-1])}


def best_of(
    rows: Iterable[dict[str, Any]], settings: Iterable[str], by: str = "images_per_second"
) -> list[dict[str, Any]]:
    """The best of the rows with the same settings: other processes can only slow one down.

    Args:
        rows: dicts as `measure` returns them.
        settings: names of the fields that hold the settings.
        by: field of which the largest value is best.

    Returns:
        The best rows, in the order in which their settings first appear.
    """
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = json.dumps([row.get(name) for name in settings])
        if key not in best or row.get(by, 0) > best[key].get(by, 0):
            best[key] = row
    return list(best.values())
