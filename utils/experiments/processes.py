"""Runs of 03_train in processes of their own, for comparisons of many runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.training import results
from utils.training.config import RunConfig

NOTEBOOK = "notebooks/03_train.ipynb"


def start(config: RunConfig) -> subprocess.Popen:
    """Starts 03_train with papermill.

    Args:
        config: the run. The executed notebook goes to its folder.

    Returns:
        The process; its output is in `log_file(config)`. Ctrl-C does not reach it.
    """
    log = log_file(config)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", NOTEBOOK, str(log.with_name("03_train.ipynb"))]
    for name, value in config.parameters.items():
        command += ["-p", name, str(value)]
    env = {name: value for name, value in os.environ.items() if name != "FISHNET_QUICK"}
    with log.open("w") as output:
        return subprocess.Popen(
            [*command, "--no-progress-bar"],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_file(config: RunConfig) -> Path:
    """Where the output of a run's process is."""
    return Path(config.resolve().run_dir, "log.txt")


def stop(process: subprocess.Popen) -> None:
    """Ends a run that is still going; it saves itself first if its step ends within 5 seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def run_to_end(config: RunConfig) -> dict[str, Any]:
    """Runs what has no complete result yet.

    Args:
        config: the run.

    Returns:
        Its result.

    Raises:
        RuntimeError: the run failed; says where its log is. The same call continues from there.
    """
    if results.complete_result(config) is None:
        process = start(config)
        try:
            process.wait()
        finally:
            stop(process)
    result = results.complete_result(config)
    if result is None:
        raise RuntimeError(f"{config.run_id} failed; see the end of {log_file(config)}.")
    return result


def run_missing(configs: Iterable[RunConfig]) -> list[dict[str, Any]]:
    """Runs those that have no complete result yet, one after another.

    Args:
        configs: the runs.

    Returns:
        Their results, in the same order.

    Raises:
        RuntimeError: see `run_to_end`.
    """
    found = []
    for config in configs:
        result = run_to_end(config)
        last = len(result["history"]["loss"]) - 1
        print(results.epoch_line(result, last), "|", config.run_id, flush=True)
        found.append(result)
    return found
