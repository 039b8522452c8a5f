import os
import shutil
from pathlib import Path

import keras
import matplotlib
import pytest
import runs
from layouts import sample_files
from pictures import picture

from utils.data.prepare import prepare_dataset
from utils.models.presets import PRESETS
from utils.training import run_folder
from utils.training.config import RunConfig
from utils.training.run import train

matplotlib.use("Agg")  # no windows


@pytest.fixture(autouse=True)
def seeded():
    """Untrained networks of a test have the same weights each time, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests are skipped where there is none, but not in CI.

    Of a module: while it is open, its event loop runs in this thread.
    """
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next(filter(None, found), None)
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium is installed")
    assert path, "No Chromium is installed; .ci/run installs Debian's."
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Folder of TFRecords of a small tiny-shapes: 24 classes, 12 and 4 images each."""
    folder = tmp_path_factory.mktemp("data") / "tiny-shapes"
    prepare_dataset("tiny-shapes", folder, train_per_class=12, validation_per_class=4)
    return folder


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "tiny"
    for name, data in sample_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def make_config(shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", runs.SMALL)
    monkeypatch.setitem(PRESETS, "whole", runs.WHOLE)

    def make(name="run", **changes):
        options = {"dataset": "tiny-shapes", "data_dir": str(shapes), "preset": "small"}
        options["precision"] = "float32"  # whatever is the fastest here
        options |= {"batch_size": 96, "epochs": 3}
        return RunConfig(run_dir=str(tmp_path / name), **{**options, **changes})

    return make


@pytest.fixture
def pets(tmp_path):
    """Two classes, six and four pictures."""
    for name, number in (("cat", 6), ("dog", 4)):
        for i in range(number):
            picture(tmp_path / "pets" / name / f"{i}.png", seed=10 * number + i)
    return tmp_path / "pets"


@pytest.fixture
def copied(shapes, tmp_path):
    return Path(shutil.copytree(shapes, tmp_path / "records"))


class Killed(Exception):
    """Stands for the end of a process right after a checkpoint."""


@pytest.fixture
def killed(monkeypatch):
    """Trains, but ends as if killed once the checkpoint of that position is written."""

    def train_until(config, epochs, step=0):
        save = run_folder.save_checkpoint

        def save_and_end(folder, variables, state):
            save(folder, variables, state)
            if (state.epoch, state.step) == (epochs, step):
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "save_checkpoint", save_and_end)
            with pytest.raises(Killed):
                train(config)

    return train_until
