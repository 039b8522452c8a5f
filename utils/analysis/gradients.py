"""What gradients show of a network: which pixels speak for a class, and how far training reaches.

TensorFlow only: both need gradients by tensors within a model.
"""

import collections
import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from utils.models.fishnet import STAGES
from utils.training import results

PARTS = (*STAGES, "score", "logits")


def kept_images(predictions):
    """The images that a run's predictions keep, drawn at random, with their labels.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.

    Returns:
        uint8 (samples, height, width, 3) and int (samples,); the same for all runs.
    """
    jpegs = predictions["jpeg"][: predictions.SAMPLES]
    images = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
    labels = predictions["labels"][predictions["sample"][: predictions.SAMPLES]]
    return np.stack([np.asarray(image) for image in images]), labels.astype(int)


def grad_cam(model, images, classes, layers):
    """Where in an image a layer finds what speaks for a class.

    Args:
        model: a functional `keras.Model` from images to logits.
        images: (n, height, width, 3) in 0..255.
        classes: (n,) int, the class that is asked about.
        layers: names of layers whose output is (n, rows, columns, channels).

    Returns:
        Dict of float arrays (n, rows, columns) in [0, 1] by layer name.

    Source:
        Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.
    """
    outputs = [model.get_layer(name).output for name in layers]
    seen = keras.Model(model.inputs, [*outputs, model.output])
    with tf.GradientTape() as tape:
        *features, logits = seen(tf.constant(images, tf.float32), training=False)
        asked = tf.reduce_sum(tf.gather(logits, classes, axis=1, batch_dims=1))
    maps = {}
    for name, feature, slope in zip(layers, features, tape.gradient(asked, features), strict=True):
        weights = tf.reduce_mean(slope, axis=(1, 2), keepdims=True)
        cam = tf.nn.relu(tf.reduce_sum(weights * feature, axis=-1))
        largest = tf.reduce_max(cam, axis=(1, 2), keepdims=True)
        maps[name] = tf.math.divide_no_nan(cam, largest).numpy()
    return maps


def gradient_norms(model, images, labels):
    """How strongly the loss pulls at each part of a network.

    Args:
        model: a functional `keras.Model` from images to logits.
        images: (n, height, width, 3) in 0..255.
        labels: (n,) int.

    Returns:
        Dict of part: norm of the gradient of its kernels over the norm of these kernels. Parts are
        the stages of a FishNet, or what comes before the first `_` in the names of another network.
    """
    kernels = [v for v in model.trainable_variables if v.path.endswith("/kernel")]
    with tf.GradientTape() as tape:
        logits = model(tf.constant(images, tf.float32), training=True)
        loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        loss = tf.reduce_mean(loss)
    squares = collections.defaultdict(lambda: [0.0, 0.0])
    slopes = tape.gradient(loss, [kernel.value for kernel in kernels])
    for kernel, slope in zip(kernels, slopes, strict=True):
        part = squares[_part(kernel.path)]
        part[0] += float(tf.reduce_sum(slope**2))
        part[1] += float(tf.reduce_sum(kernel.value**2))
    return {name: (slope / weight) ** 0.5 for name, (slope, weight) in squares.items()}


def keep_gradient_norms(config, predictions):
    """Adds `gradient_norms` to the result of a run whose weights are too large to be committed.

    Args:
        config: the `RunConfig` of the run, whose `model.keras` must be in its run_dir.
        predictions: of any run, as `utils.training.predictions.load_predictions` returns them.

    Returns:
        The result.
    """
    result = results.read_result(config.result_file)
    model = keras.models.load_model(f"{config.run_dir}/model.keras")
    result["gradient_norms"] = gradient_norms(model, *kept_images(predictions))
    results.write_result(config.result_file, result)
    return result


def _part(path):
    layer = path.split("/")[-2]
    return next((stage for stage in PARTS if layer.startswith(stage)), layer.split("_")[0])
