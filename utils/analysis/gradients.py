"""What gradients show of a network: the evidence for a class, and how far training reaches.

`python -m utils.analysis.gradients` trains the networks that are set beside FishNet, unless their
results are there, and adds `gradient_norms` to them. TensorFlow only: both need gradients with
respect to tensors within a model.
"""

import argparse
import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from utils.environment import need_tensorflow
from utils.experiments.catalog import gradient_runs
from utils.experiments.processes import run_missing
from utils.files import load_model
from utils.models.build import build_model
from utils.models.fishnet import STAGES
from utils.models.presets import get_preset
from utils.training.config import NETWORK_CHANGES
from utils.training.predictions import SAMPLES, decode_image, load_predictions
from utils.training.results import read_result, result_path, write_result

GROUPS = (*STAGES, "score", "logits")  # of a FishNet's layers, shallow to deep


def kept_images(predictions: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The random images that are kept with a run's predictions, and their labels.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.

    Returns:
        uint8 (samples, height, width, 3) and int (samples,); the same for all runs on a split.
    """
    jpegs = predictions["jpeg"][:SAMPLES]
    labels = predictions["labels"][predictions["sample"][:SAMPLES]]
    return np.stack([decode_image(jpeg) for jpeg in jpegs]), labels.astype(int)


def layers_in(model: keras.Model, names: Iterable[str]) -> list[str]:
    """Those of some layers that a model has; a network that is a tail alone has no body."""
    found = {layer.name for layer in model.layers}
    return [name for name in names if name in found]


def grad_cam(
    model: keras.Model, images: np.ndarray, classes: Sequence[int], layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Where in an image a layer finds evidence for a class.

    Args:
        model: a functional `keras.Model` from images to logits.
        images: (n, height, width, 3) in 0..255.
        classes: (n,) int, the class to find evidence for.
        layers: names of layers whose output is (n, rows, columns, channels).

    Returns:
        Dict of float arrays (n, rows, columns) in [0, 1] by layer name.

    Source:
        Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    need_tensorflow("Grad-CAM")
    outputs = [model.get_layer(name).output for name in layers]
    with_features = keras.Model(model.inputs, [*outputs, model.output])
    with tf.GradientTape() as tape:
        *features, logits = with_features(tf.constant(images, tf.float32), training=False)
        scores = tf.reduce_sum(tf.gather(logits, classes, axis=1, batch_dims=1))
    maps = {}
    gradients = tape.gradient(scores, features)
    for name, feature, gradient in zip(layers, features, gradients, strict=True):
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        cam = tf.nn.relu(tf.reduce_sum(weights * feature, axis=-1))
        largest = tf.reduce_max(cam, axis=(1, 2), keepdims=True)
        maps[name] = tf.math.divide_no_nan(cam, largest).numpy()
    return maps


def gradient_norms(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The gradient of the loss at each part of a network, relative to its weights.

    Args:
        model: a functional `keras.Model` from images to logits.
        images: (n, height, width, 3) in 0..255.
        labels: (n,) int.

    Returns:
        Dict of part: norm of the gradient of its kernels over the norm of these kernels. Parts are
        the stages of a FishNet, or what comes before the first `_` in the names of another network.
    """
    kernels = [v for v in model.trainable_variables if v.path.endswith("/kernel")]
    before = model.get_weights()
    with tf.GradientTape() as tape:
        logits = model(tf.constant(images, tf.float32), training=True)
        loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        loss = tf.reduce_mean(loss)
    model.set_weights(before)  # the step moved the averages of batch normalization
    squares: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
    for kernel, gradient in zip(kernels, gradients, strict=True):
        part = squares[_part(kernel.path)]
        part[0] += float(tf.reduce_sum(gradient**2))
        part[1] += float(tf.reduce_sum(kernel.value**2))
    return {name: (gradient / weight) ** 0.5 for name, (gradient, weight) in squares.items()}


def _part(path: str) -> str:
    layer = path.split("/")[-2]
    return next((group for group in GROUPS if layer.startswith(group)), layer.split("_")[0])


def beside_untrained(
    trained: Sequence[tuple[Mapping[str, Any], dict[str, float]]],
    images: np.ndarray,
    labels: np.ndarray,
) -> dict[tuple[str, str], dict[str, float]]:
    """Gradient norms of trained networks, each behind those of the same network at initialization.

    Args:
        trained: pairs of the result of a run and what `gradient_norms` returns after it.
        images: (n, height, width, 3) in 0..255.
        labels: (n,) int.

    Returns:
        Dict of (preset, "untrained" or "trained"): norms, for
        `utils.figures.charts.plot_gradient_norms`.
    """
    keras.utils.set_random_seed(0)
    axes = (0, 1, 2)
    pixels = tuple(images.mean(axis=axes).tolist()), tuple(images.std(axis=axes).tolist())
    norms = {}
    for result, after in trained:
        preset, config = result["preset"], result["config"]
        network = get_preset(preset, **{name: config.get(name) for name in NETWORK_CHANGES})
        untrained = build_model(
            network,
            stem=config["stem"],
            normalization=pixels,
            image_size=images.shape[1],
            name=preset,
        )
        norms[preset, "untrained"] = gradient_norms(untrained, images, labels)
        norms[preset, "trained"] = after
    return norms


def keep_gradient_norms(
    run_id: str,
    predictions: Mapping[str, Any],
    *,
    results_dir: str | Path = "report/results",
    runs_dir: str | Path = "runs",
) -> dict[str, float]:
    """Adds `gradient_norms` to a run's result, as its weights are too large to be committed.

    Args:
        run_id: name of the run.
        predictions: of any run, as `utils.training.predictions.load_predictions` returns them; the
            norms are of the images that they keep.
        results_dir: folder with `<run_id>.json`.
        runs_dir: folder with `<run_id>/model.keras`.

    Returns:
        The norms; see `gradient_norms`.
    """
    path = result_path(results_dir, run_id)
    result = read_result(path)
    model = load_model(Path(runs_dir, run_id, "model.keras"))
    result["command"] = "python -m utils.analysis.gradients"
    result["gradient_norms"] = gradient_norms(model, *kept_images(predictions))
    write_result(path, result)
    return result["gradient_norms"]


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m utils.analysis.gradients",
        description="Trains the networks whose gradients are compared, and measures these.",
    ).parse_args()
    need_tensorflow("Measuring gradients")
    kept = load_predictions("report/results/simple-tuned-8ep-seed0.npz")
    for found in run_missing(gradient_runs()):
        if "gradient_norms" not in found:
            print(found["run_id"], keep_gradient_norms(found["run_id"], kept))
