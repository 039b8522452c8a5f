"""What `utils.experiments.benchmark.measure` runs in a process of its own."""

import collections
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from utils import environment
from utils.data import pipeline
from utils.data.manifest import load_manifest
from utils.data.plan import Source
from utils.models.build import build_model, count_macs
from utils.models.fast_layers import accelerate
from utils.models.presets import FishNetConfig
from utils.training.config import RunConfig
from utils.training.optimizers import compile_model
from utils.training.recipes import get_recipe
from utils.training.run import train


def speed(
    preset: str | list,
    *,
    precision: str = "float32",
    xla: bool = False,
    fast_layers: bool = True,
    batch_size: int = 256,
    steps: int = 10,
    image_size: int = 64,
    num_classes: int = 200,
) -> dict[str, float]:
    """Images/s of training and inference on a constant uint8 batch.

    Args:
        preset: name of the network, or the fields of a `FishNetConfig`, in order.
        precision: Keras dtype policy.
        xla: whether to compile with XLA; JAX always does.
        fast_layers: whether to use `utils.models.fast_layers`.
        batch_size: images per step.
        steps: of a measurement; the fastest of four counts, as for `best_of`.
        image_size: height and width of an image, in pixels.
        num_classes: number of classes.

    Returns:
        Dict: images_per_second and inference_images_per_second, compile_seconds (the first step),
        gflops (billion operations/s of training: a multiply-add is two, a step three passes) and
        peak_rss_mb.
    """
    size: dict[str, Any] = {"image_size": image_size, "num_classes": num_classes}
    model = compiled(
        preset,
        batch_size=batch_size,
        precision=precision,
        xla=xla,
        fast_layers=fast_layers,
        **size,
    )
    batches = same_batch(batch_size, **size)
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=1, verbose=0)
    compile_seconds = time.perf_counter() - start
    train = _rate(lambda: model.fit(batches, steps_per_epoch=steps, verbose=0), steps, batch_size)
    inference = _rate(lambda: model.predict(batches, steps=steps, verbose=0), steps, batch_size)
    return {
        "images_per_second": train,
        "inference_images_per_second": inference,
        "compile_seconds": compile_seconds,
        "gflops": 6 * count_macs(model) * train / 1e9,
        "peak_rss_mb": environment.peak_rss_mb(),
    }


def matrix_product(*, size: int = 4096, dtype: str = "float32") -> dict[str, float]:
    """Billion operations/s of a large matrix product, as `gflops`: the machine's practical peak."""
    a = keras.random.normal((size, size), dtype="float32")
    a = keras.ops.cast(a, dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        float(keras.ops.cast(keras.ops.matmul(a, a)[0, 0], "float32"))  # waits for the result
        times.append(time.perf_counter() - start)
    return {"gflops": 2 * size**3 / min(times) / 1e9}


def operations(
    preset: str | list, *, fast_layers: bool = True, batch_size: int = 256, steps: int = 5
) -> dict[str, dict[str, float]]:
    """Time of a training step by kind of operation, from TensorFlow's profiler.

    Args:
        preset: name of the network, or the fields of a `FishNetConfig`, in order.
        fast_layers: whether to use `utils.models.fast_layers`.
        batch_size: images per step.
        steps: steps that are profiled, after three others.

    Returns:
        Dict: ms_by_operation, milliseconds per step summed over threads, largest first.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    model = compiled(preset, batch_size=batch_size, fast_layers=fast_layers)
    batches = same_batch(batch_size)
    model.fit(batches, steps_per_epoch=3, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            model.fit(batches, steps_per_epoch=steps, verbose=0)
        (space_file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(space_file.read_bytes())
    spent: collections.Counter = collections.Counter()
    for plane in space.planes:
        for event in itertools.chain.from_iterable(line.events for line in plane.lines):
            name = plane.event_metadata[event.metadata_id].name  # "node:operation"
            node, _, operation = name.partition("#")[0].rpartition(":")
            operation = operation.strip()
            if node and ":" not in node and not operation.startswith("__"):  # those wrap others
                spent[operation] += event.duration_ps / 1e9 / steps
    return {"ms_by_operation": dict(spent.most_common())}


def epochs(
    preset: str | list, *, way: str, images: int = 6000, count: int = 5, batch_size: int = 256
) -> dict[str, list[float]]:
    """Seconds and resident memory of each epoch, with one of three ways to feed and run it.

    Args:
        preset: name of the network.
        way: "course": float32 images in `from_tensor_slices`, in eager mode; "graph": the
            same in a graph; "ours": uint8 images, normalized in the model, and fast layers.
        images: how many, drawn at random.
        count: epochs.
        batch_size: images per step.

    Returns:
        Dict: seconds and rss_mb, lists by epoch.
    """
    x = np.random.default_rng(0).integers(0, 256, (images, 64, 64, 3), np.uint8)
    y = np.arange(images, dtype=np.int32) % 200
    model = compiled(preset, batch_size=batch_size, fast_layers=way == "ours")
    if way != "ours":
        x = x.astype(np.float32)
    model.run_eagerly = way == "course"
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(images, seed=0)
    measured: dict[str, list[float]] = {"seconds": [], "rss_mb": []}

    class Log(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            measured["seconds"].append(time.perf_counter() - self.start)
            measured["rss_mb"].append(psutil.Process().memory_info().rss / 2**20)

    batches = pipeline.without_tuner(batches.batch(batch_size, drop_remainder=True).prefetch(2))
    model.fit(batches, epochs=count, verbose=0, callbacks=[Log()])
    return measured


def waiting(
    preset: str | list,
    *,
    data_dir: str,
    batch_size: int = 256,
    steps: int = 40,
) -> dict[str, float]:
    """Images/s of the input pipeline alone, and how long training waits for it.

    Args:
        preset: name of the network.
        data_dir: folder of TFRecords.
        batch_size: images per step.
        steps: steps to measure, after as many that fill buffers.

    Returns:
        Dict: pipeline_images_per_second and pipeline_cpu_ms (of a batch) without a network,
        waiting_share, the fraction of a training step that is spent waiting, in [0, 1], and
        own_mb and shared_mb, resident memory without a network: of this process alone, and of files
        that all processes share.
    """
    manifest = load_manifest(data_dir)
    source = Source(data_dir, manifest, batch_size, augment=True)
    batches = iter(pipeline.feed(pipeline.training_batches(source, epochs=1000)))
    for _ in range(source.steps):  # until all images have been touched
        next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(5 * steps):
        next(batches)
    cpu_ms = 1000 * (time.process_time() - cpu) / (5 * steps)
    alone = 5 * steps * batch_size / (time.perf_counter() - start)
    memory = psutil.Process().memory_info()
    shared = getattr(memory, "shared", 0)  # Linux alone tells

    model = compiled(preset, batch_size=batch_size)
    waited, worked = 0.0, 0.0
    for step in range(2 * steps):
        start = time.perf_counter()
        images, labels = next(batches)
        there = time.perf_counter()
        model.train_on_batch(images, labels)
        if step >= steps:
            waited += there - start
            worked += time.perf_counter() - there
    return {
        "pipeline_images_per_second": alone,
        "pipeline_cpu_ms": cpu_ms,
        "waiting_share": waited / (waited + worked),
        "own_mb": (memory.rss - shared) / 2**20,
        "shared_mb": shared / 2**20,
    }


def training(**options: Any) -> dict[str, Any]:
    """A whole training run; its files are deleted.

    Args:
        **options: fields of a `RunConfig`.

    Returns:
        Dict: history and env, as in a result.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(**options, run_dir=f"{folder}/run", results_dir=folder)
        result = train(config)
    return {"history": result["history"], "env": result["env"]}


TASKS: dict[str, Callable] = {
    task.__name__: task for task in (speed, matrix_product, operations, epochs, waiting, training)
}


def compiled(
    preset: str | list,
    *,
    batch_size: int,
    precision: str = "float32",
    xla: bool = False,
    fast_layers: bool = True,
    **size: Any,
) -> keras.Model:
    """A network, compiled with the recipe `tuned-v1`.

    Args:
        preset: name of the network, or the fields of a `FishNetConfig`, in order.
        batch_size: images per step.
        precision: Keras dtype policy.
        xla: whether to compile with XLA; JAX always does.
        fast_layers: whether to use `utils.models.fast_layers`; never on a GPU.
        **size: image_size and num_classes.
    """
    network = preset if isinstance(preset, str) else FishNetConfig(*preset)
    with environment.dtype_policy(precision):
        model = build_model(network, normalization=((122.0,) * 3, (70.0,) * 3), **size)
        if fast_layers and environment.on_cpu():
            model = accelerate(model)
    xla = xla or keras.backend.backend() == "jax"
    recipe = get_recipe("tuned-v1")
    compile_model(model, recipe, steps=3000, batch_size=batch_size, jit_compile=xla)
    return model


def same_batch(size: int, image_size: int = 64, num_classes: int = 200) -> Any:
    """A `tf.data.Dataset` of one batch of random uint8 images and labels, again and again."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (size, image_size, image_size, 3), np.uint8)
    labels = random.integers(0, num_classes, size, np.int32)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(size).cache()
    return pipeline.without_tuner(batches.repeat().prefetch(2))


def _rate(work: Callable[[], Any], steps: int, batch_size: int) -> float:
    """Images/s of the fastest of four measurements."""
    work()  # buffers, first allocations
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return steps * batch_size / min(times)


if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
