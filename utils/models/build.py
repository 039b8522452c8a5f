"""Any network of the project from its preset, and how large it is."""

import math

import keras
from keras import layers

from utils.models.baselines import _build_baseline, build_resnext, build_unet
from utils.models.fishnet import build_fishnet
from utils.models.heads import HEADS
from utils.models.presets import (
    BaselineConfig,
    FishNetConfig,
    ResNeXtConfig,
    UNetConfig,
    get_preset,
)

# What the names of the layers of classifiers, boxes and masks begin with.
HEAD_LAYERS = ("logits", "hidden", "box", "decoder")


def build_model(
    preset,
    *,
    image_size=64,
    num_classes=200,
    stem="imagenet",
    normalization=None,
    task="classification",
    name=None,
):
    """Builds a FishNet or a baseline.

    Args:
        preset: the name of a preset or a config as in `utils.models.presets`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: see `build_fishnet`; of a baseline, "imagenet" is its own stem, "half" and "full" are
            a 3x3 convolution with stride 2 or 1 and no pool in its place.
        normalization: None, or (mean, std) of three floats each in units of 0..255; see
            `build_fishnet`.
        task: a name in `utils.models.heads.HEADS`.
        name: the model's; None: the preset's.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes); for localization with a box (xmin, ymin, xmax, ymax) in [0, 1] behind
        them; for segmentation logits (batch, image_size, image_size, 1 + num_classes).

    Raises:
        ValueError: if the preset is unknown or the options do not fit it.
    """
    config = get_preset(preset) if isinstance(preset, str) else preset
    classifier = _BUILDERS[type(config)](
        config,
        image_size=image_size,
        num_classes=num_classes,
        stem=stem,
        normalization=normalization,
        name=name or (preset if isinstance(preset, str) else None),
    )
    return HEADS[task](classifier, num_classes)


_BUILDERS = {
    FishNetConfig: build_fishnet,
    ResNeXtConfig: build_resnext,
    BaselineConfig: _build_baseline,
    UNetConfig: build_unet,
}


def start_from(model, path):
    """Gives a model the weights of a saved one, but for its heads.

    A classifier is taken over if its classes are as many; other tasks' heads if both have them.

    Args:
        model: a model of `build_model`; changed in place, or not at all.
        path: a `.keras` file of the same network.

    Returns:
        Names of the layers that keep the weights they had: of heads alone.

    Raises:
        ValueError: the file cannot be read, or is of another network; lists what differs.
    """
    try:
        saved = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise ValueError(f"initial_weights: {path} cannot be read as a model. {error}") from error
    found = {layer.name: layer.get_weights() for layer in saved.layers if layer.weights}
    wanted = {layer.name: layer for layer in model.layers if layer.weights}
    kept = [name for name in wanted if name not in found and name.startswith(HEAD_LAYERS)]
    problems = [f"missing: {name}" for name in wanted if name not in found and name not in kept]
    problems += [
        f"unexpected: {name}"
        for name in found
        if name not in wanted and not name.startswith((*HEAD_LAYERS, "score"))
    ]
    for name in wanted.keys() & found.keys():
        expected = [tuple(weight.shape) for weight in wanted[name].weights]
        shapes = [weight.shape for weight in found[name]]
        if shapes != expected and name.startswith(HEAD_LAYERS):
            kept.append(name)
        elif shapes != expected:
            problems.append(f"shapes: {name} must have {expected}. Received: {shapes}")
    if problems:
        text = "\n".join(sorted(problems)[:10])
        raise ValueError(
            f"initial_weights: {path} is of another network. Of {len(problems)} misfits:\n{text}"
        )
    for name, layer in wanted.items():
        if name not in kept:
            layer.set_weights(found[name])
    return kept


def count_parameters(model):
    """Returns the number of trainable parameters of a model."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_macs(model):
    """Counts the multiply-accumulates of a built model at inference.

    Convolutions and dense layers count one for each weight and position, batch normalization (a
    scale and an offset then) one for each element; biases, activations and pooling count nothing.

    The published 4.31, 6.45 and 10.58 G of FishNet-99, 150 and 201 come from the authors'
    `utils/profile.py`, which adds ReLU and pooling, the latter several times over (all stages share
    one pooling module, with one counter each); this count is 0.4 to 0.8 % lower.

    Args:
        model: a channels-last `keras.Model` with static shapes.

    Returns:
        Multiply-accumulates per image.
    """
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            macs += count_macs(layer)
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            positions = math.prod(layer.output.shape[1:-1])
            macs += positions * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.BatchNormalization):
            macs += math.prod(layer.output.shape[1:])
    return macs
