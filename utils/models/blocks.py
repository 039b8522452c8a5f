"""The blocks of every convolutional network here: functions from a tensor to a tensor.

The names of their layers begin with what the caller gives them.
"""

import contextlib
import math
from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from utils.fields import check_choice
from utils.models.presets import STEMS

Normalization = tuple[Sequence[float], Sequence[float]] | None  # mean and std of each channel


def get_stem(name: str) -> tuple[int, bool]:
    """Looks up a stem.

    Args:
        name: a key of `utils.models.presets.STEMS`.

    Returns:
        (stride, pool) as there.

    Raises:
        ValueError: if there is no such stem; lists the names.
    """
    check_choice("stem", name, STEMS)
    return STEMS[name]


def normalize(x: KerasTensor, normalization: Normalization) -> KerasTensor:
    """Applies (x - mean) / std per channel; the identity for None.

    Args:
        x: images (batch, height, width, 3).
        normalization: None, or (mean, std) of three floats each in the units of `x`.

    Returns:
        A tensor of x's shape.

    Raises:
        ValueError: if `normalization` is not such a pair.
    """
    if normalization is None:
        return x
    mean: list[float] = []
    std: list[float] = []
    with contextlib.suppress(TypeError, ValueError):
        mean, std = ([float(value) for value in values] for values in normalization)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            "normalization must be None or a pair (mean, std) of three floats each, std above "
            f"zero. Received: normalization={normalization!r}"
        )
    scale = [1 / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return layers.Rescaling(scale, offset, dtype="float32", name="normalization")(x)


def conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    name: str,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    zero_init: bool = False,
) -> KerasTensor:
    """Convolves with PyTorch's symmetric padding; Keras' "same" pads stride 2 unevenly.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the output.
        kernel_size: odd.
        name: of the layer.
        stride: 2 halves the resolution.
        dilation: dilation rate.
        groups: number of groups of a grouped convolution.
        use_bias: whether to add a bias.
        zero_init: whether the kernel starts at zero.

    Returns:
        (batch, height / stride, width / stride, filters).
    """
    if stride > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        dilation_rate=dilation,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer="zeros" if zero_init else initializer(kernel_size, filters),
        name=name,
    )(x)


def initializer(kernel_size: int, filters: int) -> keras.Initializer:
    """Normal with std sqrt(2 / (k * k * out)), as in the original.

    `VarianceScaling` would give the same, but its saved form changes from one Keras to the next.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / (kernel_size**2 * filters)))


def bn(x: KerasTensor, name: str, dtype: str | None = None) -> KerasTensor:
    """Batch normalization with PyTorch's default momentum and epsilon."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)(x)


def bn_act(x: KerasTensor, activation: str, prefix: str, index: int | str = "") -> KerasTensor:
    """Batch normalization, then an activation function."""
    x = bn(x, f"{prefix}_bn{index}")
    return layers.Activation(activation, name=f"{prefix}_act{index}")(x)


def max_pool(x: KerasTensor, name: str) -> KerasTensor:
    """The 3x3 max-pool with stride 2 that ends a stem.

    It pads with zeros. After a ReLU they give the same maximum as the original's minus infinity;
    after one with negative values, such as SiLU, no maximum at the border is below zero.
    """
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def classifier(
    x: KerasTensor, num_classes: int, *, dropout: float = 0.0, batch_norm: bool = False
) -> KerasTensor:
    """Float32 logits from pooled features.

    Args:
        x: (batch, features).
        num_classes: number of classes.
        dropout: dropout rate.
        batch_norm: whether batch normalization follows the logits.

    Returns:
        (batch, num_classes).
    """
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(
        num_classes, kernel_initializer=initializer(1, num_classes), dtype="float32", name="logits"
    )(x)
    return bn(x, "logits_bn", dtype="float32") if batch_norm else x
