"""The networks that FishNet is compared with: ResNeXt, U-Net and those of `keras.applications`."""

from typing import Any

import keras
from keras import KerasTensor, layers

from utils.models.blocks import (
    Normalization,
    bn,
    bn_act,
    classifier,
    conv,
    get_stem,
    max_pool,
    normalize,
)
from utils.models.presets import BaselineConfig, ResNeXtConfig, UNetConfig, total_stride


def build_resnext(
    config: ResNeXtConfig,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    stem: str = "imagenet",
    normalization: Normalization = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNeXt classifier.

    Args:
        config: a `ResNeXtConfig`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: "imagenet" (7x7 convolution with stride 2 and max-pool), or for small images "half"
            (3x3 with stride 2) or "full" (3x3 with stride 1), both without a pool.
        normalization: None, or (mean, std); see `build_fishnet`.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes).

    Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017
    (arXiv 1611.05431), section 3 and table 1; the stride is in the 3x3 convolution, as there.
    """
    stride, pool = get_stem(stem)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = normalize(inputs, normalization)
    x = conv(x, 64, 7 if pool else 3, "stem_conv", stride=stride)
    x = bn_act(x, "relu", "stem")
    if pool:
        x = max_pool(x, "stem_pool")
    for i, depth in enumerate(config.depths):
        for block in range(depth):
            x = _resnext_block(
                x,
                config.groups * config.group_width * 2**i,
                f"stage{i + 1}_block{block + 1}",
                stride=2 if i and not block else 1,
                groups=config.groups,
                project=not block,
            )
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, classifier(x, num_classes, dropout=config.dropout), name=name)


def _resnext_block(
    x: KerasTensor, width: int, name: str, *, stride: int, groups: int, project: bool
) -> KerasTensor:
    """1x1, grouped 3x3 and 1x1 convolution to twice the width, beside the shortcut."""
    shortcut = x
    if project:
        shortcut = conv(x, 2 * width, 1, f"{name}_shortcut_conv", stride=stride)
        shortcut = bn(shortcut, f"{name}_shortcut_bn")
    x = bn_act(conv(x, width, 1, f"{name}_conv1"), "relu", name, 1)
    x = conv(x, width, 3, f"{name}_conv2", stride=stride, groups=groups)
    x = bn_act(x, "relu", name, 2)
    x = bn(conv(x, 2 * width, 1, f"{name}_conv3"), f"{name}_bn3")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_act3")(x)


def build_unet(
    config: UNetConfig,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    stem: str = "full",
    normalization: Normalization = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a U-Net.

    Args:
        config: a `UNetConfig`.
        image_size: height and width of the input, in pixels; a multiple of 2 ** (depth - 1).
        num_classes: number of classes.
        stem: ignored; a U-Net has none and starts at full resolution.
        normalization: None, or (mean, std); see `build_fishnet`.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes) of the average over its last features, the layer `unet_features`.

    Raises:
        ValueError: if the stem is unknown or the image size does not fit.

    Source: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015 (arXiv 1505.04597), figure 1; with batch normalization, and padding so that the
    output is as large as the input.
    """
    get_stem(stem)
    stride = total_stride(config, stem)
    if image_size < 1 or image_size % stride:
        raise ValueError(
            f"image_size must be a multiple of {stride}. Received: image_size={image_size}"
        )
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x, skipped = normalize(inputs, normalization), []
    for level in range(config.depth):
        if level > 0:
            x = layers.MaxPooling2D(2, name=f"down_{level}_pool")(x)
        x = _double_conv(x, config.width * 2**level, f"down_{level}")
        skipped.append(x)
    for level in reversed(range(config.depth - 1)):
        x = layers.UpSampling2D(2, name=f"up_{level}_upsample")(x)
        x = conv(x, config.width * 2**level, 3, f"up_{level}_conv0", use_bias=True)
        x = layers.Concatenate(name=f"up_{level}_concatenate")([x, skipped[level]])
        x = _double_conv(x, config.width * 2**level, f"up_{level}")
    x = layers.Identity(name="unet_features")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, classifier(x, num_classes), name=name)


def _double_conv(x: KerasTensor, width: int, name: str) -> KerasTensor:
    """Two 3x3 convolutions, each with batch normalization and ReLU."""
    for i in (1, 2):
        x = bn_act(conv(x, width, 3, f"{name}_conv{i}"), "relu", name, i)
    return x


def build_application(
    config: BaselineConfig,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    stem: str = "imagenet",
    normalization: Normalization = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a network of `keras.applications`, its global average and a small classifier.

    Args:
        config: a `BaselineConfig`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: "imagenet" is the network's own; "half" and "full" are a 3x3 convolution with stride
            2 or 1 and no pool in its place.
        normalization: None, or (mean, std); see `build_fishnet`.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes).

    Raises:
        ValueError: if the stem is unknown, or the network does not begin with one that it can
            replace.
    """
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
        x = layers.Dense(units, activation=config.hidden_activation, name=f"hidden_{index}")(x)
    (image,) = backbone.inputs
    return keras.Model(image, classifier(x, num_classes, dropout=config.dropout), name=name)


def _with_small_stem(backbone: keras.Model, stride: int, application: str) -> keras.Model:
    """A copy whose 7x7 convolution is 3x3, and whose first pool is the identity."""
    expected = [layers.ZeroPadding2D, layers.Conv2D, layers.ZeroPadding2D, layers.MaxPooling2D]
    first = [layer for layer in backbone.layers if type(layer) in expected][:4]
    if [type(layer) for layer in first] != expected:
        raise ValueError(
            f"{application} does not begin with a padded convolution and max-pool; `stem` must be "
            "'imagenet'."
        )
    pad, convolution, *pool = first
    changes: dict[Any, dict] = {
        pad: {"padding": 1},
        convolution: {"kernel_size": 3, "strides": stride},
    }

    def clone(layer: keras.Layer) -> keras.Layer:
        if layer in pool:
            return layers.Identity(name=layer.name)
        return type(layer).from_config({**layer.get_config(), **changes.get(layer, {})})

    return keras.models.clone_model(backbone, clone_function=clone)
