"""Runs of 03_train in processes of their own, for the notebooks that compare many of them."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from utils.training import results


def start(config):
    """Starts 03_train with papermill.

    Args:
        config: the `RunConfig` of the run. The executed notebook goes to its folder.

    Returns:
        The `subprocess.Popen`; its output is in `log_file(config)`. Ctrl-C does not reach it.
    """
    _, notebook, _, *parameters = shlex.split(config.command)
    log = log_file(config)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", notebook, str(log.with_name("03_train.ipynb"))]
    env = {name: value for name, value in os.environ.items() if name != "FISHNET_QUICK"}
    with log.open("w") as output:
        return subprocess.Popen(
            [*command, *parameters, "--no-progress-bar"],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_file(config):
    """Where the output of a run's process is."""
    return Path(config.run_dir, "log.txt")


def stop(process):
    """Ends a run that is still going; it saves itself first."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def complete_result(config):
    """The result of a run, or None as long as it is not complete."""
    if not config.result_file.exists():
        return None
    result = results.read_result(config.result_file)
    return result if result["status"] == "complete" else None


def failed(config):
    """The error that says that a run's process has failed."""
    return RuntimeError(f"{config.run_id} failed; see the end of {log_file(config)}.")


def run_missing(configs):
    """Runs one after another what has no complete result yet.

    Args:
        configs: list of `RunConfig`.

    Returns:
        Their results, in the same order.

    Raises:
        RuntimeError: a run failed; says where its log is. The same call goes on from there.
    """
    found = []
    for config in configs:
        if complete_result(config) is None:
            process = start(config)
            try:
                process.wait()
            finally:
                stop(process)
        result = complete_result(config)
        if result is None:
            raise failed(config)
        found.append(result)
        print(results.epoch_line(result, config.epochs - 1), "|", config.run_id, flush=True)
    return found
