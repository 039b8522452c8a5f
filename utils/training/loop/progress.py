"""What is shown of a run while it trains: what will happen, a bar, and when it will be over."""

import time
from datetime import datetime, timedelta
from typing import Any

import keras

from utils import environment
from utils.data.manifest import evaluation_size
from utils.data.plan import Source
from utils.progress import Bar
from utils.training.config import ResolvedConfig
from utils.training.loop.callbacks import CHECK_EVERY
from utils.training.run_folder import TrainState

EVALUATION = 1 / 3  # of the time that training an image takes: there is no backward pass


def summary(config: ResolvedConfig, source: Source, result: dict[str, Any]) -> str:
    """What a run will do, on what, and how to stop it.

    Args:
        config: of the run.
        source: what it reads.
        result: of the run; it need not have begun.

    Returns:
        Three lines.
    """
    env = result["env"]
    when = "each epoch" if config.evaluate_every == 1 else f"every {config.evaluate_every} epochs"
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    devices = f"{env['devices']} devices, " if env["devices"] > 1 else ""
    images = evaluation_size(source.manifest, source.split)
    return (
        f"{config.preset}, {result['model']['parameters']:,} parameters, with the recipe "
        f"{config.recipe} on {config.dataset}: {epochs} of {source.steps} steps of "
        f"{config.batch_size} images. After {when} {images:,} images of "
        f"{config.split} are evaluated.\n"
        f"On {env['device']} ({devices}{env['cpu_count']} CPU cores) by {env['backend']} in "
        f"{config.precision}. All of it is kept in {config.run_dir}.\n"
        f"To stop: Ctrl-C; in Jupyter the stop button. To go on: {config.command}"
    )


class Progress(keras.callbacks.Callback):
    """Moves a bar with the steps, and says after the first ones how long the run will take.

    Args:
        config: of the run.
        source: what it reads.
        state: how far it is; `Measurements`, called before, keeps it up to date.
        bar: to be moved, in images.
    """

    def __init__(self, config: ResolvedConfig, source: Source, state: TrainState, bar: Bar) -> None:
        super().__init__()
        self.config, self.source, self.state, self.bar = config, source, state, bar
        self.step = 0  # up to which the bar is
        self.first: tuple[int, float] | None = None  # a step of this epoch, and when it was done
        self.announced = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins the bar of an epoch."""
        self.first, self.step = None, self.state.step
        self.bar.begin(
            f"epoch {epoch + 1}/{self.config.epochs}",
            total=self.source.steps * self.config.batch_size,
            done=self.step * self.config.batch_size,
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar, and shows the loss every 20 steps."""
        step, now = self.state.step, time.perf_counter()
        together, self.step = step - self.step, step
        if batch * together % CHECK_EVERY < together:  # `Measurements` has waited for it as well
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)
        self.bar.update(together * self.config.batch_size)
        if self.first is None:  # the very first one compiles
            self.first = step, now
        elif step - self.first[0] >= CHECK_EVERY and not self.announced:
            self.announced = True
            rate = (step - self.first[0]) / (now - self.first[1])
            self.bar.write(forecast(self.config, self.source, self.state, rate))

    def on_test_begin(self, logs: Any = None) -> None:
        """Says that the epoch is being evaluated."""
        self.bar.set_postfix_str("evaluating")


def forecast(config: ResolvedConfig, source: Source, state: TrainState, rate: float) -> str:
    """How long an epoch takes, and when a run will be over.

    Args:
        config: of the run.
        source: what it reads.
        state: how far it is.
        rate: steps per second in this epoch.

    Returns:
        A line.
    """
    whole = source.manifest["image_size"]
    phases = (config.full_recipe.phase(epoch, config.epochs) for epoch in range(config.epochs))
    costs = [((size or whole) / whole) ** 2 for size, _ in phases]  # of an image, by epoch
    now = costs[state.epoch]
    left = (sum(costs[state.epoch :]) * source.steps - state.step * now) * config.batch_size
    evaluations = sum(epoch > state.epoch for epoch in config.evaluated_epochs)
    left += evaluations * evaluation_size(source.manifest, source.split) * EVALUATION
    seconds = left / (rate * config.batch_size * now)
    end = datetime.now() + timedelta(seconds=seconds)
    return (
        f"{rate * config.batch_size:.0f} images/s, about {source.steps / rate / 60:.1f} min per "
        f"epoch, {config.epochs - state.epoch} to go: over in about {duration(seconds)}, at "
        f"{end:%H:%M}. Memory {environment.peak_rss_mb() / 1024:.1f} GiB"
    )


def duration(seconds: float) -> str:
    """A time to come, as "40 s", "12 min" or "3 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
