"""What happens between the steps and epochs of `fit`."""

import math
import time

import keras

from utils import environment

# name in a result's history: name of the compiled metric
REPORTED = {"loss": "cross_entropy", "top1": "top1", "top5": "top5"}


class EpochLog(keras.callbacks.Callback):
    """Measures each epoch and hands it to the run."""

    CHECK_EVERY = 20  # steps between looks at the loss, which wait for an accelerator

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.announced = False

    def on_epoch_begin(self, epoch, logs=None):
        """Notes when the epoch began."""
        environment.release_free_memory()
        self.epoch, self.start = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stops a run whose loss is lost; says once how long an epoch will take."""
        if batch % self.CHECK_EVERY:
            return
        if not math.isfinite(logs["loss"]):
            self.run.fail(self.epoch, batch)
        if batch == 0:
            self.second_step = time.perf_counter()
        elif not self.announced:
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
            self.run.fail(epoch, self.run.steps - 1)
        end = time.perf_counter()
        trained = self.run.steps * self.run.config.batch_size
        measured = {name: float(logs[metric]) for name, metric in REPORTED.items()}
        measured |= {f"val_{name}": float(logs[f"val_{m}"]) for name, m in REPORTED.items()}
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
    """

    def __init__(self, past_losses, initial_rate, **kwargs):
        super().__init__(**kwargs)
        self.past_losses, self.initial_rate = list(past_losses), initial_rate

    def on_train_begin(self, logs=None):
        """Brings counters and learning rate to where they were."""
        super().on_train_begin(logs)
        self.model.optimizer.learning_rate = self.initial_rate
        for epoch, loss in enumerate(self.past_losses):
            self.on_epoch_end(epoch, {self.monitor: loss})
