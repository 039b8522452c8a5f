"""FishNet as a functional Keras model: every block is a function x -> x.

The layer that gives a stage's output has the stage's name: stem (f0), tail_1 ... tail_3 (f1-f3),
bridge (f4), body_1 ... body_3 (f5-f7), head_1 ... head_3 (f8-f10). The layers within a stage carry
its name in front of their own (`tail_1_block1_conv2`), those of its transfer branch
`body_1_branch`, and so on; the classifier is score_... and logits.

Source: Sun et al., "FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction",
NeurIPS 2018 (arXiv 1901.03495), and github.com/kevin-ssy/FishNet at commit b968f02.
"""

import math

import keras
from keras import layers

STEMS = {  # stride of the first convolution, whether a max-pool with stride 2 follows
    "imagenet": (2, True),
    "half": (2, False),
    "full": (1, False),
}


def build_fishnet(
    config,
    *,
    image_size=64,
    num_classes=200,
    stem="imagenet",
    normalization=None,
    name=None,
):
    """Builds a FishNet classifier.

    Args:
        config: a `FishNetConfig`.
        image_size: height and width of the input, in pixels; a multiple of the total stride, which
            is 8 times the stem's.
        num_classes: number of classes.
        stem: "imagenet" (convolution with stride 2 and max-pool: stride 4, as in the paper), "half"
            (stride 2, no pool) or "full" (stride 1, no pool).
        normalization: None, or (mean, std) of three floats each in units of 0..255; the model then
            takes pixels of 0..255 and starts with a layer that computes (x - mean) / std.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes).

    Raises:
        ValueError: if the stem is unknown or the image size does not fit.

    Source: arXiv 1901.03495, section 3 and figure 2; `models/fishnet.py` of the authors' code.
    """
    if stem not in STEMS:
        raise ValueError(f"`stem` must be one of {', '.join(STEMS)}. Received: stem={stem!r}")
    stride, pool = STEMS[stem]
    total_stride = 8 * stride * (2 if pool else 1)
    if image_size < 1 or image_size % total_stride:
        raise ValueError(
            f"`image_size` must be a multiple of the total stride, {total_stride} with "
            f"stem={stem!r}. Received: image_size={image_size}"
        )
    planes, depths = config.network_planes, config.num_res_blks
    branch_depths = config.num_trans_blks

    inputs = keras.Input((image_size, image_size, 3), name="image")
    f = [_stem(normalize(inputs, normalization), planes[0], stride, pool)]
    for i in (1, 2, 3):
        f.append(_tail(f[-1], planes[i], depths[i - 1], f"tail_{i}"))
    f.append(_bridge(f[-1], planes[4], depths[3], "bridge"))
    for i in (1, 2, 3):
        stage, dilation = f"body_{i}", 2 ** (i - 1)
        branch = _branch(f[3 - i], branch_depths[i - 1], stage)
        f.append(_body(f[-1], branch, planes[4 + i], depths[3 + i], dilation, stage))
    for i in (1, 2, 3):
        stage = f"head_{i}"
        branch = _branch(f[7 - i], branch_depths[i + 2], stage)
        f.append(_head(f[-1], branch, planes[7 + i], depths[6 + i], stage))
    return keras.Model(inputs, _score(f[-1], num_classes, "score"), name=name)


def normalize(x, normalization):
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
    try:
        mean, std = ([float(value) for value in values] for values in normalization)
    except (TypeError, ValueError):
        mean, std = [], []
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            "`normalization` must be None or a pair (mean, std) of three floats each, std above "
            f"zero. Received: normalization={normalization!r}"
        )
    scale = [1 / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return layers.Rescaling(scale, offset, dtype="float32", name="normalization")(x)


def _conv(x, filters, kernel_size, name, *, stride=1, dilation=1, use_bias=False):
    """Convolves with PyTorch's symmetric padding; Keras' "same" pads stride 2 unevenly."""
    if stride > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        dilation_rate=dilation,
        use_bias=use_bias,
        kernel_initializer=_initializer(kernel_size, filters),
        name=name,
    )(x)


def _initializer(kernel_size, filters):
    """Normal with std sqrt(2 / (k * k * out)), as in the original.

    `VarianceScaling` would give the same, but its saved form changes from one Keras to the next.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / (kernel_size**2 * filters)))


def _bn(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _bn_relu(x, prefix, index=""):
    x = _bn(x, f"{prefix}_bn{index}")
    return layers.ReLU(name=f"{prefix}_relu{index}")(x)


def _bottleneck(x, width, name, *, dilation=1, reduce=False):
    """Pre-activation bottleneck; with `reduce`, its shortcut is channel reduction."""
    if reduce:
        shortcut = _channel_reduction(x, width, f"{name}_reduction")
    elif x.shape[-1] != width:
        shortcut = _conv(_bn_relu(x, f"{name}_shortcut"), width, 1, f"{name}_shortcut_conv")
    else:
        shortcut = x
    x = _conv(_bn_relu(x, name, 1), width // 4, 1, f"{name}_conv1")
    x = _conv(_bn_relu(x, name, 2), width // 4, 3, f"{name}_conv2", dilation=dilation)
    x = _conv(_bn_relu(x, name, 3), width, 1, f"{name}_conv3")
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _bottlenecks(x, width, depth, prefix, *, dilation=1, up=False):
    for block in range(1, depth + 1):
        name = f"{prefix}_block{block}"
        x = _bottleneck(x, width, name, dilation=dilation, reduce=up and block == 1)
    return x


def _channel_reduction(x, width, name):
    """Sums consecutive groups of channels so that `width` remain (section 3.2 of the paper)."""
    _, rows, columns, channels = x.shape
    if channels == width:
        return x
    x = layers.Reshape((rows, columns, width, channels // width), name=name)(x)
    return keras.ops.sum(x, axis=-1)


def _stem(x, width, stride, pool):
    """Three 3x3 convolutions and, with `pool`, a 3x3 max-pool with stride 2."""
    x = _bn_relu(_conv(x, width // 2, 3, "stem_conv1", stride=stride), "stem", 1)
    x = _bn_relu(_conv(x, width // 2, 3, "stem_conv2"), "stem", 2)
    x = _bn(_conv(x, width, 3, "stem_conv3"), "stem_bn3")
    x = layers.ReLU(name="stem_relu3" if pool else "stem")(x)
    if not pool:
        return x
    # The original pads with minus infinity; after a ReLU, zeros give the same maximum.
    x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    return layers.MaxPooling2D(3, strides=2, name="stem")(x)


def _tail(x, width, depth, name):
    x = _bottlenecks(x, width, depth, name)
    return layers.MaxPooling2D(2, name=name)(x)


def _bridge(x, width, depth, name):
    """Widens to twice `width`, comes back, and gates with squeeze-and-excitation."""
    x = _conv(_bn_relu(x, f"{name}_score", 1), width // 2, 1, f"{name}_score_conv1")
    x = _bn_relu(x, f"{name}_score", 2)
    score = _conv(x, 2 * width, 1, f"{name}_score_conv2", use_bias=True)

    residual = _bottlenecks(score, width, depth, name)

    gate = _bn_relu(score, f"{name}_se", 1)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_average")(gate)
    gate = _conv(gate, width // 16, 1, f"{name}_se_conv1", use_bias=True)
    gate = layers.ReLU(name=f"{name}_se_relu2")(gate)
    gate = _conv(gate, width, 1, f"{name}_se_conv2", use_bias=True)
    gate = layers.Activation("sigmoid", name=f"{name}_se_sigmoid")(gate)

    gated = layers.Multiply(name=f"{name}_gated")([residual, gate])
    return layers.Add(name=name)([gated, gate])


def _branch(x, depth, name):
    """Transfers an earlier stage's output, at its own width, to where the trunk meets it."""
    return _bottlenecks(x, x.shape[-1], depth, f"{name}_branch")


def _body(x, branch, width, depth, dilation, name):
    """Up-sampling and refinement: the trunk doubles its resolution and meets the branch."""
    x = _bottlenecks(x, width, depth, name, dilation=dilation, up=True)
    x = layers.UpSampling2D(2, name=f"{name}_upsample")(x)
    return layers.Concatenate(name=name)([x, branch])


def _head(x, branch, width, depth, name):
    """Down-sampling and refinement: the trunk halves its resolution and meets the branch."""
    x = _bottlenecks(x, width, depth, name)
    x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    return layers.Concatenate(name=name)([x, branch])


def _score(x, num_classes, name):
    x = _conv(_bn_relu(x, name, 1), x.shape[-1] // 2, 1, f"{name}_conv1")
    x = layers.GlobalAveragePooling2D(name=f"{name}_average")(_bn_relu(x, name, 2))
    return layers.Dense(
        num_classes, kernel_initializer=_initializer(1, num_classes), dtype="float32", name="logits"
    )(x)
