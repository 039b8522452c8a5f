r"""Trains a network with layers created inside `call`, eagerly, and writes one result JSON.

Needs an environment of its own, as Keras 3 refuses half of this:

    python -m venv keras2
    keras2/bin/pip install "tensorflow==2.21.*" "tf_keras==2.21.*" -r requirements.txt
    keras2/bin/python -m utils.experiments.layers_in_call.train \
        --which batch_norm --manner list --steps 15

The course report ran TensorFlow 2 of 2021; `tf_keras` is the Keras that came with it, with the
optimizers of that time as `legacy`. Seconds depend on what else a machine does, CPU seconds hardly.
"""

import argparse
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow as tf
import tf_keras

from utils import environment
from utils.commands import one_line_errors
from utils.data.manifest import load_manifest, steps_per_epoch
from utils.data.pipeline import evaluation_batches, feed, training_batches
from utils.data.plan import Source
from utils.experiments.common import ABLATION_OPTIONS
from utils.experiments.layers_in_call.network import FishNet
from utils.experiments.layers_in_call.variants import (
    EVALUATED_TRAIN_BATCHES,
    LAYERS,
    MANNERS,
    Variant,
    run_id,
)
from utils.models.presets import PRESETS, BaselineConfig, FishNetConfig
from utils.training.config import RunConfig
from utils.training.results import new_result, result_path, write_result

NAMES = ("loss", "top1", "top5")


def build_variant(preset: str, variant: Variant) -> Any:
    """Builds and compiles a network as the course report trained it.

    Args:
        preset: a key of `utils.models.presets.PRESETS`: a FishNet, or a baseline of
            `keras.applications`, in which nothing is re-created.
        variant: which layers are re-created in every call.

    Returns:
        A compiled `tf_keras.Model` from float32 images of 64 x 64 pixels to 200 logits.

    Raises:
        ValueError: if the preset is another kind of network.
    """
    config = PRESETS[preset]
    if isinstance(config, BaselineConfig):
        application = getattr(tf_keras.applications, config.application)
        features = application(
            include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg"
        )
        activation = config.hidden_activation
        hidden = [tf_keras.layers.Dense(units, activation) for units in config.hidden_units]
        model = tf_keras.Sequential([features, *hidden, tf_keras.layers.Dense(200)])
    elif isinstance(config, FishNetConfig):
        model = FishNet(config, variant)
    else:
        raise ValueError(f"preset must be a FishNet or a baseline. Received: {preset!r}")
    model.compile(
        optimizer=tf_keras.optimizers.legacy.Adam(1e-3),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            tf_keras.metrics.SparseCategoricalAccuracy("top1"),
            tf_keras.metrics.SparseTopKCategoricalAccuracy(5, "top5"),
        ],
    )
    return model


def graph_error(preset: str, variant: Variant) -> str | None:
    """Trains two steps on random images in a graph.

    Args:
        preset: as for `build_variant`.
        variant: as for `build_variant`.

    Returns:
        What the error says of variables, or all of it where it is another one; None without one.
    """
    tf.config.run_functions_eagerly(False)
    images = np.random.default_rng(0).random((32, 64, 64, 3), "float32")
    try:
        build_variant(preset, variant).fit(images, np.arange(32), batch_size=16, verbose=0)
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return next((line for line in lines if "tf.Variable" in line), " ".join(lines))
    return None


class Epochs(tf_keras.callbacks.Callback):
    """Measures each epoch.

    Args:
        history: the result's lists by epoch, which grow.
        batches: training images to evaluate as the hold-out is.
        steps: of an epoch.
        batch_size: images of a step.
    """

    def __init__(self, history: dict, batches: Any, steps: int, batch_size: int) -> None:
        super().__init__()
        self.history, self.batches = history, batches
        self.images = steps * batch_size
        self.process = psutil.Process()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clocks."""
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def on_test_begin(self, logs: Any = None) -> None:
        """Reads the clocks at the end of training."""
        self.trained, self.cpu_trained = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds what there is to say of the epoch."""
        measured = {name: float(logs[name]) for name in NAMES}
        measured |= {f"val_{name}": float(logs[f"val_{name}"]) for name in NAMES}
        measured |= {
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(time.perf_counter() - self.start, 2),
            "images_per_second": round(self.images / (self.trained - self.start), 1),
            "peak_rss_mb": round(environment.peak_rss_mb()),
            "cpu_seconds": round(time.process_time() - self.cpu_start, 2),
            "train_cpu_seconds": round(self.cpu_trained - self.cpu_start, 2),
            "rss_mb": round(self.process.memory_info().rss / 2**20),
            "model_variables": len(self.model.variables),
            "optimizer_variables": len(self.model.optimizer.variables()),
            "live_variables": sum(type(x).__name__ == "ResourceVariable" for x in gc.get_objects()),
        }
        evaluated = self.model.evaluate(self.batches, verbose=0, return_dict=True)
        measured["evaluated_train_top1"] = float(evaluated["top1"])
        for name, value in measured.items():
            self.history.setdefault(name, []).append(value)
        print(f"epoch {epoch + 1}", measured, flush=True)


def train_variant(
    variant: Variant,
    *,
    preset: str = "simple",
    seed: int = 0,
    epochs: int = 5,
    steps: int | None = None,
    batch_size: int = 256,
    fraction: float = 1 / 3,
    data_dir: str = "data/tiny-imagenet",
    results_dir: str = "report/results",
) -> Path:
    """Trains on a part of the training set, reports on the hold-out, writes the result.

    Args:
        variant: which layers are re-created in every call.
        preset: a key of `utils.models.presets.PRESETS`.
        seed: of weights and order.
        epochs: passes over the images.
        steps: of an epoch, and at most this many of evaluation; None: all.
        batch_size: images of a step.
        fraction: share of the training set without the hold-out that is used.
        data_dir: folder of the TFRecords.
        results_dir: where the JSON goes.

    Returns:
        Its path.

    Raises:
        ValueError: there is such a result already; or an eager run has no `steps` or fewer than
            three epochs, without which growth cannot be measured.
    """
    name = run_id(preset, variant.which, variant.manner, seed)
    path = result_path(results_dir, name)
    if path.exists():
        raise ValueError(f"{path} exists. Move it away, or give another results_dir.")
    if variant.manner != "twin" and (not steps or epochs < 3):
        raise ValueError(
            f"manner {variant.manner} needs steps, and at least 3 epochs. "
            f"Received: steps={steps}, epochs={epochs}"
        )
    options: Any = {
        **ABLATION_OPTIONS, "recipe": "course", "epochs": epochs, "batch_size": batch_size,
        "seed": seed, "fraction": fraction, "eager": variant.manner != "twin", "run_dir": name,
    }  # fmt: skip
    config = RunConfig(preset=preset, **options)
    manifest = load_manifest(data_dir)
    result = new_result(config, manifest)
    error = graph_error(preset, variant)

    tf_keras.utils.set_random_seed(seed)
    # The course report's way round that error.
    tf.config.run_functions_eagerly(config.eager)
    model = build_variant(preset, variant)
    all_steps = steps_per_epoch(manifest, config.split, batch_size, config.fraction)

    def pixels(images: Any, labels: Any) -> Any:
        return tf.cast(images, tf.float32) / 255, labels

    source = Source(
        data_dir, manifest, batch_size, config.split, fraction=config.fraction, seed=seed
    )
    training = feed(training_batches(source, epochs=epochs)).map(pixels)
    fixed = feed(evaluation_batches(source, on_train=True))
    fixed = fixed.take(EVALUATED_TRAIN_BATCHES).cache().map(pixels)
    held_out = feed(evaluation_batches(source)).map(pixels)
    history: dict = {}
    log = Epochs(history, fixed, steps or all_steps, batch_size)
    plateau = tf_keras.callbacks.ReduceLROnPlateau(
        monitor="val_loss", patience=config.full_recipe.plateau_patience
    )
    start = time.perf_counter()
    model.fit(
        training,
        epochs=epochs,
        steps_per_epoch=steps or all_steps,
        validation_data=held_out,
        validation_steps=steps,
        callbacks=[log, plateau],
        verbose=0,
    )
    result["command"] = (
        "python -m utils.experiments.layers_in_call.train"
        f" --which {variant.which} --manner {variant.manner} --preset {preset} --seed {seed}"
        f" --epochs {epochs} --batch-size {batch_size} --fraction {fraction}"
        + (f" --steps {steps}" if steps else "")
    )
    result["config"] |= {"which": variant.which, "manner": variant.manner, "steps": steps}
    result["env"]["keras"] = tf_keras.__version__
    result |= {
        "status": "complete",
        "graph_error": error,
        "model": {"parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables))},
        "history": history,
        "metrics": {
            **{name: history[f"val_{name}"][-1] for name in NAMES},
            "split": config.split,
        },
        "seconds": {"total": round(time.perf_counter() - start, 2)},
    }
    write_result(path, result)
    return path


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--which", choices=LAYERS, default="none")
    parser.add_argument("--manner", choices=MANNERS, default="once")
    parser.add_argument("--preset", default="simple")
    for name, usual in (("seed", 0), ("epochs", 5), ("batch-size", 256)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--fraction", type=float, default=1 / 3)
    parser.add_argument("--data-dir", default="data/tiny-imagenet")
    parser.add_argument("--results-dir", default="report/results")
    options = vars(parser.parse_args())
    with one_line_errors(parser):
        print(train_variant(Variant(options.pop("which"), options.pop("manner")), **options))


if __name__ == "__main__":
    main()
