"""What happens between the steps and epochs of `fit`."""

import contextlib
import math
import signal
import time

import keras

from utils import environment
from utils.training.results import REPORTED


def reported(logs, task="classification", prefix=""):
    """What a result says of the metrics that Keras logs.

    Args:
        logs: of a Keras callback or evaluation.
        task: a name in `utils.training.results.REPORTED`.
        prefix: "val_" for those of the validation data.

    Returns:
        Dict of floats by the names in a result.
    """
    names = REPORTED[task]
    return {f"{prefix}{name}": float(logs[f"{prefix}{metric}"]) for name, metric in names.items()}


class RunLog(keras.callbacks.Callback):
    """Measures each epoch, hands it to the run, and lets the run save and stop between steps.

    Args:
        run: whose `end_step`, `end_epoch` and `fail` are called.
        first_step: steps of the first epoch that were done before.
    """

    CHECK_EVERY = 20  # steps between looks at the loss, which wait for an accelerator

    def __init__(self, run, first_step=0):
        super().__init__()
        self.run, self.first_step = run, first_step
        self.announced = False

    def on_epoch_begin(self, epoch, logs=None):
        """Notes when the epoch began; in an epoch that was cut off, brings its sums back."""
        environment.release_free_memory()
        self.epoch, self.start = epoch, time.perf_counter()
        if self.first_step:
            self.run.restore_sums()
            self.start -= self.run.elapsed

    def on_train_batch_end(self, batch, logs=None):
        """Looks after the loss now and then; hands the step to the run."""
        step = self.first_step + batch + 1
        due = self.run.is_due(self.epoch, step)
        if (due or batch % self.CHECK_EVERY == 0) and not math.isfinite(logs["loss"]):
            self.run.fail(self.epoch, step)
        self._announce(batch)
        if due:
            self.run.end_step(self.epoch, step, time.perf_counter() - self.start)

    def _announce(self, batch):
        """Says once how long an epoch will take."""
        if batch == 0:
            self.second_step = time.perf_counter()
        elif batch == self.CHECK_EVERY and not self.announced:
            self.announced = True
            rate = batch / (time.perf_counter() - self.second_step)
            print(
                f"{rate * self.run.config.batch_size:.0f} images/s, about "
                f"{self.run.steps / rate / 60:.1f} min an epoch, "
                f"{self.run.config.epochs - self.epoch} to go",
                flush=True,
            )

    def on_test_begin(self, logs=None):
        """Notes when training ended and evaluation began."""
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Hands the epoch's numbers to the run."""
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            self.run.fail(epoch, self.run.steps)
        end = time.perf_counter()
        trained = self.run.steps * self.run.config.batch_size
        task = self.run.config.task
        measured = reported(logs, task) | reported(logs, task, "val_")
        measured |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(end - self.start, 2),
            "images_per_second": round(trained / (self.trained - self.start), 1),
            "peak_rss_mb": round(environment.peak_rss_mb()),
        }
        self.run.end_epoch(epoch, measured)


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """`ReduceLROnPlateau` that a continued run can rely on.

    Keras forgets its counters at every `fit`; here they are worked out again from the losses of
    the epochs before.

    Args:
        past_losses: the run's list of them, which grows.
        initial_rate: learning rate of the first epoch.
        **kwargs: of `ReduceLROnPlateau`.
    """

    def __init__(self, past_losses, initial_rate, **kwargs):
        super().__init__(**kwargs)
        self.past_losses, self.initial_rate = past_losses, initial_rate

    def on_train_begin(self, logs=None):
        """Brings counters and learning rate to where they were."""
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self.initial_rate
        for epoch, loss in enumerate(self.past_losses):
            self.on_epoch_end(epoch, {self.monitor: loss})


@contextlib.contextmanager
def stop_signals():
    """Holds back SIGTERM and Ctrl-C.

    Yields:
        A list to which the first one's name is added. A second one acts as it always does.
    """
    caught, usual = [], {}

    def hold_back(number, frame):
        caught.append(signal.Signals(number).name)
        signal.signal(number, usual[number])

    with contextlib.suppress(ValueError):  # only the main thread may handle signals
        for number in (signal.SIGTERM, signal.SIGINT):
            usual[number] = signal.signal(number, hold_back)
    try:
        yield caught
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
