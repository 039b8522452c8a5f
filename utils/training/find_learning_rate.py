"""A learning-rate range test: a short training whose rate rises from step to step."""

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from utils import environment
from utils.accelerator import Feeder
from utils.data.manifest import load_manifest
from utils.data.pipeline import training_batches
from utils.devices import Devices
from utils.progress import Bar
from utils.training.config import RunConfig
from utils.training.loop.network import compiled_model, on_device, source_of, with_precision

LOWEST, HIGHEST = 1e-5, 10.0
STEPS = 200
WINDOW = 15  # steps whose mean is the smoothed loss
DIVERGED = 2.0  # times the lowest of them


class _Diverged(Exception):
    """The loss is so high that no later step matters."""


class _Losses(keras.callbacks.Callback):
    """Collects the loss of each step, of which Keras logs the mean so far."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar, self.sum, self.found = bar, 0.0, list[float]()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self.sum = self.sum, float(logs["loss"]) * (batch + 1)
        self.found.append(self.sum - before)
        self.bar.update()
        means = smoothed(self.found).iloc[: -(WINDOW // 2)]
        last = np.mean(self.found[-WINDOW:])
        if len(means) and not last < DIVERGED * means.min():  # it may be no number
            raise _Diverged


def sweep_learning_rates(config: RunConfig, steps: int = STEPS) -> pd.DataFrame:
    """Trains a new network for some steps, while the learning rate rises exponentially.

    No result and no checkpoint is written or read.

    Args:
        config: of the run that it is done for; its own learning rate does not count.
        steps: from the lowest rate to the highest.

    Returns:
        A row for each step until the loss diverges: `learning_rate`, as a run is given it; the
        `loss` on the step's images before it; and `smoothed`, the mean of the losses around it.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
    """
    config = with_precision(config.resolve())
    recipe, devices = config.full_recipe, Devices()
    manifest = load_manifest(config.data_dir)
    source = source_of(config, manifest)
    scale = recipe.rate(config.batch_size) / recipe.learning_rate
    batches = training_batches(source, epochs=-(-steps // source.steps))
    with environment.deterministic_ops(), Bar(total=steps, unit=" steps") as bar:
        model, _ = compiled_model(config, manifest, devices, source.steps)
        model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
            LOWEST * scale, decay_steps=steps - 1, decay_rate=HIGHEST / LOWEST
        )
        feeder = Feeder(on_device(config, manifest, devices), Path(config.run_dir).parent)
        losses = _Losses(bar)
        with contextlib.suppress(_Diverged):
            model.fit(
                feeder(batches),
                steps_per_epoch=steps,
                callbacks=[losses],
                shuffle=False,
                verbose=0,
            )
    rates = np.geomspace(LOWEST, HIGHEST, steps)[: len(losses.found)]
    table = pd.DataFrame({"learning_rate": rates, "loss": losses.found})
    return table.assign(smoothed=smoothed(losses.found))


def smoothed(losses: list[float]) -> pd.Series:
    """The mean of the losses around each step."""
    return pd.Series(losses).rolling(WINDOW, center=True, min_periods=1).mean()


def suggested_rate(sweep: pd.DataFrame) -> float:
    """A tenth of the learning rate at which the smoothed loss is lowest; a start, not the best.

    Args:
        sweep: what `sweep_learning_rates` returns.
    """
    return float(sweep["learning_rate"][sweep["smoothed"].idxmin()]) / 10
