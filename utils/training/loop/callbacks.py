"""What happens between the steps and epochs of `fit`."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import keras

from utils import environment
from utils.devices import Devices
from utils.training.config import ResolvedConfig
from utils.training.results import REPORTED
from utils.training.run_folder import TrainState

CHECK_EVERY = 20  # steps between looks at the loss, which wait for an accelerator
CHECKPOINT_SECONDS = 300.0  # a checkpoint within an epoch is never much older


class Stopped(Exception):
    """A signal, whose name is the argument, ends the run; its state is saved."""


class Diverged(Exception):
    """The loss is no longer finite."""


def reported(
    logs: Mapping[str, Any], task: str = "classification", prefix: str = ""
) -> dict[str, float]:
    """What a result says of the metrics that Keras logs.

    Args:
        logs: of a Keras callback or evaluation.
        task: a name in `utils.training.results.REPORTED`.
        prefix: "val_" for those of the validation data.

    Returns:
        Floats by the names in a result.
    """
    names = REPORTED[task]
    return {f"{prefix}{name}": float(logs[f"{prefix}{metric}"]) for name, metric in names.items()}


class Measurements(keras.callbacks.Callback):
    """Counts steps and epochs in the run's state, and adds what was measured to its history.

    Args:
        config: of the run.
        state: likewise.
        steps: per epoch.
        sums: pairs (variable, array) of what the metrics had added up in an epoch that was cut
            off; `fit` begins every epoch at zero.
        end_epoch: called after each epoch.
        steps_per_execution: steps that one program trains, as which `fit` counts them.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        state: TrainState,
        steps: int,
        sums: list[tuple[Any, Any]],
        end_epoch: Callable[[], None],
        steps_per_execution: int = 1,
    ) -> None:
        super().__init__()
        self.steps_per_execution = steps_per_execution
        self.config, self.state, self.steps, self.end_epoch = config, state, steps, end_epoch
        self.sums = sums if state.step else []
        self.first_step = state.step
        self.start = self.trained = 0.0  # when it began and ended

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes when the epoch began; in an epoch that was interrupted, restores its sums."""
        self.start, self.trained = time.perf_counter() - self.state.elapsed, 0.0
        for variable, array in self.sums:
            variable.assign(array)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step, and checks the loss every 20 steps."""
        self.state.step = self.first_step + (batch + 1) * self.steps_per_execution
        self.state.elapsed = time.perf_counter() - self.start
        if batch * self.steps_per_execution % CHECK_EVERY < self.steps_per_execution:
            check_finite(logs["loss"])

    def on_test_begin(self, logs: Any = None) -> None:
        """Notes when training ended and evaluation began."""
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the epoch's numbers to the history; None for the split if it was not evaluated."""
        end = time.perf_counter()
        images = self.steps * self.config.batch_size
        task = self.config.task
        measured: dict[str, float | None] = {**reported(logs, task)}
        if self.trained:
            check_finite(logs["loss"], logs["val_loss"])
            measured |= reported(logs, task, "val_")
        else:
            check_finite(logs["loss"])
            self.trained = end
            measured |= {f"val_{name}": None for name in REPORTED[task]}
        measured |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(end - self.start, 2),
            "images_per_second": round(images / (self.trained - self.start), 1),
            "peak_rss_mb": round(environment.peak_rss_mb()),
        }
        for name, value in measured.items():
            self.state.history[name].append(value)
        self.state.epoch, self.state.step, self.state.elapsed = epoch + 1, 0, 0.0
        self.end_epoch()


class Checkpoints(keras.callbacks.Callback):
    """Saves the run between steps and epochs, and ends it there when a signal says so.

    A checkpoint is due every so many steps, after the last epoch, on a signal, and in any case
    `CHECKPOINT_SECONDS` after the one before.

    Args:
        config: of the run.
        state: likewise; `Measurements`, called before, keeps it up to date.
        steps: per epoch.
        save: writes a checkpoint.
        signals: names of those caught so far, see `held_back_signals`.
        devices: that train together; all of them end where one of their processes gets a signal.
        steps_per_execution: steps that one program trains; between them nothing can be saved.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        state: TrainState,
        steps: int,
        save: Callable[[], None],
        signals: list[str],
        devices: Devices,
        steps_per_execution: int = 1,
    ) -> None:
        super().__init__()
        self.steps_per_execution, self.devices = steps_per_execution, devices
        self.state, self.steps, self.save, self.signals = state, steps, save, signals
        self.epochs, self.every = config.epochs, config.checkpoint_steps(steps)
        self.saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves within an epoch; at its end the evaluation comes first."""
        if self.devices.is_preempted(self.state.epoch * self.steps + self.state.step):
            self.signals.append("SIGTERM")
        if self.state.step < self.steps and self._is_due():
            check_finite(logs["loss"])
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()  # between steps the weights are elsewhere
            self._save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves after an epoch."""
        if self.state.epoch == self.epochs or self._is_due():
            self._save()

    def _is_due(self) -> bool:
        done = self.state.epoch * self.steps + self.state.step
        age = time.monotonic() - self.saved
        return (
            bool(self.signals)
            or done % self.every < self.steps_per_execution
            or age >= CHECKPOINT_SECONDS
        )

    def _save(self) -> None:
        self.save()
        self.saved = time.monotonic()
        if self.signals:
            raise Stopped(self.signals[0])


class RawWeights(keras.callbacks.Callback):
    """Restores the model's own weights, which `fit` replaces by their average at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the weights as they are after an epoch."""
        self.weights = self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        """Restores them."""
        self.model.set_weights(self.weights)


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """`ReduceLROnPlateau` that a continued run can rely on.

    Keras forgets its counters at every `fit`; here they are worked out again from the losses of
    the epochs before.

    Args:
        past_losses: the run's list of them, which grows.
        initial_rate: learning rate of the first epoch.
        **kwargs: of `ReduceLROnPlateau`.
    """

    def __init__(self, past_losses: list[float], initial_rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.past_losses, self.initial_rate = past_losses, initial_rate

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores counters and learning rate."""
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self.initial_rate
        for epoch, loss in enumerate(self.past_losses):
            self.on_epoch_end(epoch, {self.monitor: loss})


def check_finite(*losses: float) -> None:
    """Raises `Diverged` unless they are finite."""
    if not all(math.isfinite(loss) for loss in losses):
        raise Diverged


@contextlib.contextmanager
def held_back_signals(processes: int = 1) -> Iterator[list[str]]:
    """Holds back SIGTERM and Ctrl-C.

    Args:
        processes: that train together; those of several are left to `Devices.is_preempted`.

    Yields:
        A list to which the first one's name is added. A second one acts as it always does.
    """
    caught: list[str] = []
    defaults: dict[int, Any] = {}

    def hold_back(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        signal.signal(number, defaults[number])

    with contextlib.suppress(ValueError):  # only the main thread may handle signals
        if processes == 1:
            for held in (signal.SIGTERM, signal.SIGINT):
                defaults[held] = signal.signal(held, hold_back)
    try:
        yield caught
    finally:
        for number, handler in defaults.items():
            signal.signal(number, handler)
