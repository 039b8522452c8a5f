"""Any network of the project from its preset, and how large it is."""

import math

import keras
from keras import layers

from utils.fishnet import build_fishnet, normalize
from utils.presets import FishNetConfig, get_preset


def build_model(
    preset,
    *,
    image_size=64,
    num_classes=200,
    stem="imagenet",
    normalization=None,
):
    """Builds a FishNet or a baseline.

    Args:
        preset: the name of a preset, a `FishNetConfig` or a `BaselineConfig`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: see `build_fishnet`; baselines have their own stem and take "imagenet" only.
        normalization: None, or (mean, std) of three floats each in units of 0..255; see
            `build_fishnet`.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes).

    Raises:
        ValueError: if the preset is unknown or the options do not fit it.
    """
    config = get_preset(preset) if isinstance(preset, str) else preset
    build = build_fishnet if isinstance(config, FishNetConfig) else _build_baseline
    return build(
        config,
        image_size=image_size,
        num_classes=num_classes,
        stem=stem,
        normalization=normalization,
        name=preset if isinstance(preset, str) else None,
    )


def _build_baseline(config, *, image_size, num_classes, stem, normalization, name):
    if stem != "imagenet":
        raise ValueError(
            f"{config.application} of keras.applications has its own stem; `stem` must be "
            f"'imagenet'. Received: stem={stem!r}"
        )
    inputs = keras.Input((image_size, image_size, 3), name="image")
    application = getattr(keras.applications, config.application)
    backbone = application(
        include_top=False, weights=None, input_tensor=normalize(inputs, normalization)
    )
    x = layers.GlobalAveragePooling2D(name="average")(backbone.output)
    for index, units in enumerate(config.hidden_units, start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden_{index}")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=name)


def with_kinds(model, kind_of):
    """A copy of a model with layers of other classes that have the same settings and variables.

    Args:
        model: a functional `keras.Model`.
        kind_of: gives the class that takes a layer's place.

    Returns:
        A `keras.Model` with the same weights, not compiled.
    """
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: kind_of(layer).from_config(layer.get_config())
    )
    copy.set_weights(model.get_weights())
    return copy


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
