"""Real papermill and Jupyter processes are stopped in the middle of a training, and go on."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pytest
import runs
from jupyter_client.manager import start_new_kernel
from processes import SMALL_PRESET

from utils.models.presets import PRESETS
from utils.training.config import RunConfig
from utils.training.results import read_result
from utils.training.run import train
from utils.training.run_folder import checkpoints_in, newest_checkpoint, wait_for_others

pytestmark = pytest.mark.tracing

ROOT = Path(__file__).parents[1]
# Notes each step that is done, then takes its time for the next one.
PACE = """
import os, sys, time
os.chdir({root!r})
sys.path.insert(0, {root!r})
from pathlib import Path
from utils.training.loop import callbacks

def begin(self, batch, logs=None):
    Path({run_dir!r}, "steps").write_text(str(self.state.epoch * self.steps + batch))
    time.sleep({pause})

callbacks.CHECKPOINT_SECONDS = {checkpoint_seconds}
callbacks.Measurements.on_train_batch_begin = begin
"""
TRAIN = "result = train(RunConfig(**{options!r}))"


def cells_of(config, pause=0.2, checkpoint_seconds=300):
    pace = PACE.format(
        root=str(ROOT), run_dir=config.run_dir, pause=pause, checkpoint_seconds=checkpoint_seconds
    )
    return [pace + SMALL_PRESET, TRAIN.format(options=asdict(config))]


def papermill(config, **pace):
    """Starts papermill on a notebook that trains; its output is beside the run's folder."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells_of(config, **pace)]
    path = Path(config.run_dir).with_suffix(".ipynb")
    nbformat.write(notebook, path)
    executed = path.with_stem("executed")
    command = ["papermill", str(path), str(executed), "--no-progress-bar", "-k", "python3"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stderr=subprocess.PIPE,
        text=True,
        # What a shell has started in the background ignores Ctrl-C, and so does all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return process, executed


def wait_for_steps(config, steps, process=None):
    noted = Path(config.run_dir, "steps")
    end = time.monotonic() + 600
    while not noted.exists() or int(noted.read_text() or 0) < steps:
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def config_of(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupts")

    def make(name):
        return RunConfig(
            precision="float32",
            dataset="tiny-shapes", data_dir=str(shapes), preset="small", batch_size=24, epochs=2,
            run_dir=str(folder / name),
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", runs.SMALL)
        yield make


@pytest.fixture(scope="module")
def uninterrupted(config_of):
    config = config_of("uninterrupted")
    train(config)
    return config


def assert_alike(config, other):
    ours, theirs = (
        runs.learned(read_result(c.result_file)) + (runs.weights_of(c, "model.keras"),)
        for c in (config, other)
    )
    assert ours[:-1] == theirs[:-1]
    for our, their in zip(ours[-1], theirs[-1], strict=True):
        np.testing.assert_array_equal(our, their)


def stopped(config, number, steps, **pace):
    """Sends a signal to papermill in the middle of a step.

    Returns the position of the newest checkpoint, in steps, and how many steps were done.
    """
    process, _ = papermill(config, **pace)
    wait_for_steps(config, steps, process)
    process.send_signal(number)
    _, log = process.communicate()
    assert process.returncode, log
    # The notebook's own process sees a moment later that it is alone.
    wait_for_others(config.run_dir, pause=0.01)
    epoch, step = newest_checkpoint(config.run_dir)
    return epoch * 12 + step, int(Path(config.run_dir, "steps").read_text())


def goes_on(config):
    process, executed = papermill(config, pause=0)
    _, log = process.communicate()
    assert process.returncode == 0, log
    (outputs,) = (c.outputs for c in nbformat.read(executed, 4).cells if "train(" in c.source)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_ctrl_c_saves_the_step_in_progress(config_of, uninterrupted):
    config = config_of("ctrl-c")
    saved, done = stopped(config, signal.SIGINT, 3)
    assert saved == done + 1  # and the step in progress with them
    assert len(checkpoints_in(config.run_dir)) == 1
    assert f"Continuing ctrl-c after epoch 0 and {saved} of 12 steps." in goes_on(config)
    assert_alike(config, uninterrupted)


def test_a_killed_papermill_goes_on_from_a_checkpoint_of_some_age(config_of, uninterrupted):
    config = config_of("sigterm")
    saved, done = stopped(config, signal.SIGTERM, 4, checkpoint_seconds=0.5)
    assert 0 < saved <= done + 1
    assert f"Continuing sigterm after epoch 0 and {saved} of 12 steps." in goes_on(config)
    assert_alike(config, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_step_longer_than_papermill_waits_is_lost(config_of, uninterrupted, number):
    config = config_of(f"slow-{number.name}")
    saved, done = stopped(config, number, 3, pause=10, checkpoint_seconds=15)
    assert 0 < saved <= done == 3
    assert f"after epoch 0 and {saved} of 12 steps." in goes_on(config)
    assert_alike(config, uninterrupted)


def test_jupyters_interrupt(config_of, uninterrupted):
    config = config_of("jupyter")
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        setup, cell = cells_of(config)
        assert client.execute_interactive(setup, output_hook=print)["content"]["status"] == "ok"
        request = client.execute(cell, stop_on_error=False)
        wait_for_steps(config, 3)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] == request
        content = reply["content"]
        assert content["ename"] == "TrainingError"
        assert re.match(r"Stopped by SIGINT after epoch 0 and \d+ steps\. .* To go on: papermill "
                        "notebooks/03_train.ipynb", content["evalue"])  # fmt: skip
        assert "site-packages/keras" not in "".join(content["traceback"])
        again = client.execute_interactive(cell, output_hook=print)
        assert again["content"]["status"] == "ok", again
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert_alike(config, uninterrupted)
