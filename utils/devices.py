"""The devices that share a training: one, those of a machine, or those of several machines."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

DISTRIBUTIONS = ("auto", "none")


@dataclass(frozen=True)
class Devices:
    """The devices of a run. Each takes an equal part of every batch."""

    count: int = 1  # all together
    process: int = 0  # this one, counted from 0; process 0 alone writes files
    processes: int = 1
    mirrored: Any = None  # tf.distribute.Strategy, with several devices on TensorFlow
    parallel: Any = None  # keras.distribution.DataParallel, with several devices on JAX

    def scope(self) -> contextlib.AbstractContextManager:
        """Context in which a model is built and trained on them."""
        if self.mirrored:
            return self.mirrored.scope()
        return self.parallel.scope() if self.parallel else contextlib.nullcontext()

    def synchronize_batch_norm(self, model: Any) -> None:
        """Lets BatchNorm see whole batches, as on one device. On JAX it does so anyway."""
        import keras

        if self.mirrored:
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.process == 0

    def broadcast(self, *numbers: int) -> tuple[int, ...]:
        """The numbers that process 0 passes; waits for all processes."""
        if self.processes == 1:
            return numbers
        import numpy as np
        from jax.experimental.multihost_utils import broadcast_one_to_all

        return tuple(int(n) for n in broadcast_one_to_all(np.array(numbers)))

    def is_preempted(self, step: int) -> bool:
        """Whether one of several processes has got SIGTERM: true in all of them at the same step.

        Args:
            step: of the training; to be asked by all processes after each step.
        """
        if self.processes == 1:
            return False
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        return reached_preemption_sync_point(step)


def find_devices(distribution: str = "auto") -> Devices:
    """The devices to train on.

    Args:
        distribution: "auto" takes all GPUs of this machine (without GPU, all CPU devices, which is
            one unless configured otherwise), and on JAX those of all processes that
            `join_processes` brought together; "none" takes the first device.

    Returns:
        `Devices`.
    """
    import keras

    names = keras.distribution.list_devices()
    if distribution == "none" or len(names) == 1:
        return Devices()
    if keras.backend.backend() == "jax":
        import jax

        parallel = keras.distribution.DataParallel(
            devices=names,
            auto_shard_dataset=False,  # each process reads its own part
        )
        return Devices(len(names), jax.process_index(), jax.process_count(), parallel=parallel)
    import tensorflow as tf

    return Devices(len(names), mirrored=tf.distribute.MirroredStrategy(names))


def join_processes() -> None:
    """Brings the processes of several machines together, if the environment names them (JAX).

    The variables are those of `keras.distribution.initialize`: KERAS_DISTRIBUTION_JOB_ADDRESSES,
    KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID.
    """
    import keras

    if keras.backend.backend() != "jax" or "KERAS_DISTRIBUTION_NUM_PROCESSES" not in os.environ:
        return
    import jax

    if not jax.distributed.is_initialized():
        keras.distribution.initialize()
