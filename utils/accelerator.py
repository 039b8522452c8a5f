"""Training on a GPU by JAX: the images are copied to it once, and each step is given its plan.

Gathering, cropping and flipping are part of the compiled step, and several steps are one program.
Boxes and masks, several devices and other backends are fed with images (`utils.data.pipeline`).
"""

import contextlib
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from utils import environment
from utils.data.augmentation import crop_and_resize, mix_images, mix_labels, reflect
from utils.data.pipeline import Batches, feed
from utils.data.read_records import Arrays
from utils.devices import Devices
from utils.models.build import Resized

MOST_STEPS = 20  # in one program; between two of them callbacks are called and the loss is read
PROGRAMS = "compiled"  # folder beside those of the runs


def keeps_images(task: str, devices: Devices, size: int) -> bool:
    """Whether a run's images are kept on the device.

    Args:
        task: of the run.
        devices: that it is trained on.
        size: of all images, in bytes; they may take half of the device's memory.
    """
    if task != "classification" or devices.count > 1 or not _on_jax_gpu():
        return False
    memory = _device_memory()
    return memory is None or size <= memory / 2


def _device_memory() -> int | None:
    """Bytes that JAX may use on the device; None if it does not say."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def _on_jax_gpu() -> bool:
    return keras.backend.backend() == "jax" and environment.has_gpu()


class OnDevice(Resized):
    """A network whose input is a plan and the array of all images, see `Plans`.

    Args:
        network: see `Resized`.
        batch_size: images of a step.
    """

    def __init__(self, network: keras.Model, batch_size: int) -> None:
        super().__init__(network)
        self.batch_size = batch_size
        self.input_spec = None  # Keras would expect images

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """From a plan to logits."""
        plan, images = inputs
        return super().call(take(images, *plan), training=training)

    def train_step(self, state: Any, data: Any) -> tuple[Any, Any]:
        """Trains several steps, one after another, as a loop of the compiled program.

        Keras' own `steps_per_execution` is on JAX a Python loop over programs of one step.
        """
        import jax

        (plan, images), labels = data
        one_step = super().train_step

        def body(state: Any, step: Any) -> tuple[Any, Any]:
            plan, labels = step
            logs, state = one_step(state, ((plan, images), labels))
            return state, logs

        steps = jax.tree.map(lambda x: x.reshape(-1, self.batch_size, *x.shape[1:]), (plan, labels))
        state, logs = jax.lax.scan(body, state, steps)
        return jax.tree.map(lambda x: x[-1], logs), state


def take(images: Any, rows: Any, crops: Any, flipped: Any, cuts: Any = None) -> Any:
    """Takes images from an array, crops them, flips some and mixes some.

    Args:
        images: uint8 (n, height, width, channels), on the device.
        rows: int32 (batch,).
        crops: int32 (batch, 2), otherwise as those of `draw_crops_and_flips`; or (batch, 4), of
            `draw_resized_crops`.
        flipped: bool (batch,).
        cuts: int32 (batch, 4), otherwise as those of `draw_cuts`; None: no image is mixed.

    Returns:
        uint8 (batch, height, width, channels), as `utils.data.pipeline.read` gives them.
    """
    cropped = _crop(images, rows, crops, flipped)
    return cropped if cuts is None else mix_images(cropped, cuts.T)


def _crop(images: Any, rows: Any, crops: Any, flipped: Any) -> Any:
    import jax.numpy as jnp

    if crops.shape[1] == 4:  # they are enlarged
        return crop_and_resize(images[rows], crops.T, flipped)
    height, width = images.shape[1:3]
    y = reflect(crops[:, :1] + jnp.arange(height), height)
    x = reflect(crops[:, 1:] + jnp.arange(width), width)
    x = jnp.where(flipped[:, None], x[:, ::-1], x)
    return images[rows[:, None, None], y[:, :, None], x[:, None, :]]


class Plans(keras.utils.PyDataset):
    """The plans of batches, with the array that they take their images from.

    Args:
        batches: of which the plans are.
        images: all images, on the device.
        steps_per_execution: whole batches that are one item.
    """

    def __init__(self, batches: Batches, images: Any, steps_per_execution: int) -> None:
        super().__init__()
        assert isinstance(batches.arrays, Arrays)  # see `keeps_images`
        self.arrays = batches.arrays
        self.batches, self.images, self.steps_per_execution = batches, images, steps_per_execution

    def __len__(self) -> int:
        return len(self.batches) // self.steps_per_execution

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        first = index * self.steps_per_execution
        steps = [self.batches.plan[first + i] for i in range(self.steps_per_execution)]
        rows = np.concatenate([step.rows for step in steps]).astype(np.int32)
        crops, flipped = np.zeros((len(rows), 2), np.int32), np.zeros(len(rows), bool)
        if drawn := [step.crops for step in steps if step.crops is not None]:
            crops = np.concatenate(drawn, axis=1).T
        if mirrored := [step.flipped for step in steps if step.flipped is not None]:
            flipped = np.concatenate(mirrored)
        labels = self.arrays.labels[rows]
        cuts = [step.cuts for step in steps if step.cuts is not None]
        if not cuts:
            return ((rows, crops, flipped), self.images), labels
        mixed = [
            mix_labels(*part, self.images.shape[1])
            for part in zip(np.split(labels, len(steps)), cuts, strict=True)
        ]
        mixing = np.concatenate(cuts, axis=1).T
        return ((rows, crops, flipped, mixing), self.images), np.concatenate(mixed)


class Feeder:
    """Turns batches into what `fit` and `evaluate` take.

    Args:
        on_device: whether the model is an `OnDevice`.
        runs: folder in whose folder `compiled` programs are kept for it, between processes.
    """

    def __init__(self, on_device: bool, runs: Path) -> None:
        self.on_device = on_device
        self.copies: dict[str, Any] = {}  # on the device, by file
        if on_device:
            _keep_programs(runs / PROGRAMS)

    def __call__(self, batches: Batches, steps_per_execution: int = 1) -> Any:
        """Returns `Plans` for an `OnDevice`; for others see `utils.data.pipeline.feed`."""
        if not self.on_device:
            return feed(batches)
        import jax

        arrays: Any = batches.arrays
        images = arrays.images
        file = images.base.filename
        if file not in self.copies:
            self.copies[file] = jax.device_put(images)
        return Plans(batches, self.copies[file], steps_per_execution)

    def steps_per_execution(self, steps: int, done: int) -> int:
        """How many steps one program trains; always a divisor of what an epoch has left.

        A run that goes on from one of its own checkpoints gets the number that it had.

        Args:
            steps: per epoch.
            done: of the epoch that the run is in.
        """
        if not self.on_device:
            return 1
        whole = math.gcd(steps, done)
        return max(n for n in range(1, MOST_STEPS + 1) if whole % n == 0)


def _keep_programs(folder: Path) -> None:
    """Lets JAX keep what it compiles, unless it already does."""
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    with contextlib.suppress(ImportError, AttributeError):  # no public name of JAX's
        from jax.experimental.compilation_cache import compilation_cache

        compilation_cache.reset_cache()  # it may have been asked for before, and looks once
