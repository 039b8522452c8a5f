"""Any network of the project from its preset, and how large it is."""

import math

import keras
from keras import layers

from utils.models.blocks import classifier, get_stem, normalize
from utils.models.fishnet import build_fishnet
from utils.models.presets import (
    BaselineConfig,
    FishNetConfig,
    ResNeXtConfig,
    UNetConfig,
    get_preset,
)
from utils.models.resnext import build_resnext
from utils.models.unet import build_unet
from utils.training.tasks import TASKS

# What the names of the layers of classifiers, boxes and masks begin with.
HEADS = ("logits", "hidden", "box", "decoder")


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
        task: a name in `utils.training.tasks.TASKS`.
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
    return TASKS[task].add_head(classifier, num_classes)


def _build_baseline(config, *, image_size, num_classes, stem, normalization, name):
    stride, pool = get_stem(stem)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    application = getattr(keras.applications, config.application)
    backbone = application(
        include_top=False, weights=None, input_tensor=normalize(inputs, normalization)
    )
    if not pool:
        backbone = _with_small_stem(backbone, stride, config.application)
    x = layers.GlobalAveragePooling2D(name="average")(backbone.output)
    for index, units in enumerate(config.hidden_units, start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden_{index}")(x)
    return keras.Model(
        backbone.input, classifier(x, num_classes, dropout=config.dropout), name=name
    )


def _with_small_stem(backbone, stride, application):
    """A copy whose 7x7 convolution is 3x3, and whose first pool does nothing."""
    kinds = [layers.ZeroPadding2D, layers.Conv2D, layers.ZeroPadding2D, layers.MaxPooling2D]
    first = [layer for layer in backbone.layers if type(layer) in kinds][:4]
    if [type(layer) for layer in first] != kinds:
        raise ValueError(
            f"{application} does not begin with a padded convolution and max-pool; `stem` must be "
            "'imagenet'."
        )
    pad, conv, *pool = first
    changes = {pad: {"padding": 1}, conv: {"kernel_size": 3, "strides": stride}}

    def clone(layer):
        if layer in pool:
            return layers.Identity(name=layer.name)
        return type(layer).from_config({**layer.get_config(), **changes.get(layer, {})})

    return keras.models.clone_model(backbone, clone_function=clone)


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
    kept = [name for name in wanted if name not in found and name.startswith(HEADS)]
    problems = [f"missing: {name}" for name in wanted if name not in found and name not in kept]
    problems += [
        f"unexpected: {name}"
        for name in found
        if name not in wanted and not name.startswith((*HEADS, "score"))
    ]
    for name in wanted.keys() & found.keys():
        expected = [tuple(weight.shape) for weight in wanted[name].weights]
        shapes = [weight.shape for weight in found[name]]
        if shapes != expected and name.startswith(HEADS):
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
