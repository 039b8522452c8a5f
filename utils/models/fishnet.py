"""FishNet as a functional Keras model: every block is a function x -> x.

The layer that gives a stage's output has the stage's name: stem (f0), tail_1 ... tail_3 (f1-f3),
bridge (f4), body_1 ... body_3 (f5-f7), head_1 ... head_3 (f8-f10). The layers within a stage carry
its name in front of their own (`tail_1_block1_conv2`), those of its transfer branch
`body_1_branch`, and so on; the classifier is score_... and logits.

Source: Sun et al., "FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction",
NeurIPS 2018 (arXiv 1901.03495), and github.com/kevin-ssy/FishNet at commit b968f02.
"""

import functools

import keras
from keras import KerasTensor, layers

from utils.fields import check_choice
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
from utils.models.presets import FishNetConfig, total_stride

STAGES = (  # of the features f0 ... f10
    "stem", "tail_1", "tail_2", "tail_3", "bridge",
    "body_1", "body_2", "body_3", "head_1", "head_2", "head_3",
)  # fmt: skip
# Each part has all four resolutions: the body begins with the bridge, the head with the body's end.
PARTS = {"tail": STAGES[:4], "body": STAGES[4:8], "head": STAGES[7:11]}
_DOWN_SAMPLING = {  # what follows the last block of a stage in tail and head
    "max_pool": functools.partial(layers.MaxPooling2D, 2),
    "max_pool_3x3": functools.partial(layers.MaxPooling2D, 3, strides=2, padding="same"),
    "average_pool": functools.partial(layers.AveragePooling2D, 2),
    "convolution": layers.Identity,  # nothing: that block has stride 2
}


def build_fishnet(
    config: FishNetConfig,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    stem: str = "imagenet",
    normalization: Normalization = None,
    name: str | None = None,
) -> keras.Model:
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

    The max-pool 3x3 of `config.down_sampling` pads an even size at its end alone, as "same" does.

    Source: arXiv 1901.03495, section 3 and figure 2; `models/fishnet.py` of the authors' code.
    """
    stride, pool = get_stem(stem)
    if image_size < 1 or image_size % total_stride(config, stem):
        raise ValueError(
            f"image_size must be a multiple of the total stride, {total_stride(config, stem)} with "
            f"stem={stem!r}. Received: image_size={image_size}"
        )
    planes, depths = config.network_planes, config.num_res_blks
    branch_depths = config.num_trans_blks

    inputs = keras.Input((image_size, image_size, 3), name="image")
    f = [_stem(normalize(inputs, normalization), config, stride, pool)]
    for i in (1, 2, 3):
        f.append(_down_stage(f[-1], config, planes[i], depths[i - 1], f"tail_{i}", f"tail_{i}"))
    if config.stages == "tail":
        return keras.Model(inputs, _score(f[-1], config, num_classes, "score"), name=name)
    f.append(_bridge(f[-1], config, planes[4], depths[3], "bridge"))
    for i in (1, 2, 3):
        stage, dilation = f"body_{i}", 2 ** (i - 1)
        branch = _branch(f[3 - i], config, branch_depths[i - 1], stage)
        f.append(_body(f[-1], branch, config, planes[4 + i], depths[3 + i], dilation, stage))
    for i in (1, 2, 3):
        stage = f"head_{i}"
        branch = _branch(f[7 - i], config, branch_depths[i + 2], stage)
        f.append(_head(f[-1], branch, config, planes[7 + i], depths[6 + i], stage))
    return keras.Model(inputs, _score(f[-1], config, num_classes, "score"), name=name)


def _bottleneck(
    x: KerasTensor,
    config: FishNetConfig,
    width: int,
    name: str,
    *,
    dilation: int = 1,
    stride: int = 1,
    reduce: bool = False,
) -> KerasTensor:
    """Pre-activation bottleneck; with `reduce`, its shortcut is channel reduction."""
    activation, inner = config.activation, width // config.bottleneck_ratio
    if reduce:
        shortcut = _channel_reduction(x, width, f"{name}_reduction")
    elif x.shape[-1] != width or stride > 1:
        shortcut = bn_act(x, activation, f"{name}_shortcut")
        shortcut = conv(shortcut, width, 1, f"{name}_shortcut_conv", stride=stride)
    else:
        shortcut = x
    groups = _groups(inner, config.groups)
    x = conv(bn_act(x, activation, name, 1), inner, 1, f"{name}_conv1")
    x = bn_act(x, activation, name, 2)
    x = conv(x, inner, 3, f"{name}_conv2", stride=stride, dilation=dilation, groups=groups)
    x = bn_act(x, activation, name, 3)
    x = conv(x, width, 1, f"{name}_conv3", zero_init=config.zero_init)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _groups(channels: int, most: int) -> int:
    """The largest number of equal groups, up to `most`, of at least 4 channels each."""
    sizes = (groups for groups in range(most, 1, -1) if not channels % groups)
    return next((groups for groups in sizes if channels // groups >= 4), 1)


def _bottlenecks(
    x: KerasTensor,
    config: FishNetConfig,
    width: int,
    depth: int,
    prefix: str,
    *,
    dilation: int = 1,
    up: bool = False,
    stride: int = 1,
) -> KerasTensor:
    """A sequence of bottlenecks; `up` applies to the first of them, `stride` to the last."""
    for block in range(1, depth + 1):
        x = _bottleneck(
            x,
            config,
            width,
            f"{prefix}_block{block}",
            dilation=dilation,
            stride=stride if block == depth else 1,
            reduce=up and block == 1,
        )
    return x


def _channel_reduction(x: KerasTensor, width: int, name: str) -> KerasTensor:
    """Sums consecutive groups of channels so that `width` remain (section 3.2 of the paper)."""
    _, rows, columns, channels = x.shape
    if channels == width:
        return x
    x = layers.Reshape((rows, columns, width, channels // width), name=name)(x)
    return keras.ops.sum(x, axis=-1)


def _stem(x: KerasTensor, config: FishNetConfig, stride: int, pool: bool) -> KerasTensor:
    """Three 3x3 convolutions and, with `pool`, a 3x3 max-pool with stride 2."""
    width, activation = config.network_planes[0], config.activation
    x = bn_act(conv(x, width // 2, 3, "stem_conv1", stride=stride), activation, "stem", 1)
    x = bn_act(conv(x, width // 2, 3, "stem_conv2"), activation, "stem", 2)
    x = bn(conv(x, width, 3, "stem_conv3"), "stem_bn3")
    x = layers.Activation(activation, name="stem_act3" if pool else "stem")(x)
    return max_pool(x, "stem") if pool else x


def _down_stage(
    x: KerasTensor, config: FishNetConfig, width: int, depth: int, prefix: str, name: str
) -> KerasTensor:
    """Bottlenecks, then half the resolution; `name` is the last layer's."""
    stride = 2 if config.down_sampling == "convolution" else 1
    x = _bottlenecks(x, config, width, depth, prefix, stride=stride)
    return _DOWN_SAMPLING[config.down_sampling](name=name)(x)


def _bridge(
    x: KerasTensor, config: FishNetConfig, width: int, depth: int, name: str
) -> KerasTensor:
    """Widens to twice `width`, comes back, and gates with squeeze-and-excitation."""
    activation = config.activation
    x = conv(bn_act(x, activation, f"{name}_score", 1), width // 2, 1, f"{name}_score_conv1")
    x = bn_act(x, activation, f"{name}_score", 2)
    score = conv(x, 2 * width, 1, f"{name}_score_conv2", use_bias=True)

    residual = _bottlenecks(score, config, width, depth, name)

    gate = bn_act(score, activation, f"{name}_se", 1)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_average")(gate)
    gate = conv(gate, width // 16, 1, f"{name}_se_conv1", use_bias=True)
    gate = layers.Activation(activation, name=f"{name}_se_act2")(gate)
    gate = conv(gate, width, 1, f"{name}_se_conv2", use_bias=True)
    gate = layers.Activation("sigmoid", name=f"{name}_se_sigmoid")(gate)

    gated = layers.Multiply(name=f"{name}_gated")([residual, gate])
    return layers.Add(name=name)([gated, gate])


def _branch(x: KerasTensor, config: FishNetConfig, depth: int, name: str) -> KerasTensor:
    """Transfers an earlier stage's output, at its own width, to where the trunk meets it."""
    return _bottlenecks(x, config, x.shape[-1], depth, f"{name}_branch")


def _body(
    x: KerasTensor,
    branch: KerasTensor,
    config: FishNetConfig,
    width: int,
    depth: int,
    dilation: int,
    name: str,
) -> KerasTensor:
    """Up-sampling and refinement: the trunk doubles its resolution and meets the branch."""
    x = _bottlenecks(x, config, width, depth, name, dilation=dilation, up=True)
    x = layers.UpSampling2D(2, name=f"{name}_upsample")(x)
    return layers.Concatenate(name=name)([x, branch])


def _head(
    x: KerasTensor,
    branch: KerasTensor,
    config: FishNetConfig,
    width: int,
    depth: int,
    name: str,
) -> KerasTensor:
    """Down-sampling and refinement: the trunk halves its resolution and meets the branch."""
    x = _down_stage(x, config, width, depth, name, f"{name}_pool")
    return layers.Concatenate(name=name)([x, branch])


def _score(x: KerasTensor, config: FishNetConfig, num_classes: int, name: str) -> KerasTensor:
    activation = config.activation
    x = conv(bn_act(x, activation, name, 1), x.shape[-1] // 2, 1, f"{name}_conv1")
    x = bn_act(x, activation, name, 2)
    x = layers.GlobalAveragePooling2D(name=f"{name}_average")(x)
    return classifier(x, num_classes, dropout=config.dropout, batch_norm=config.logits_bn)


def pyramid_outputs(model: keras.Model, part: str = "head") -> dict[str, KerasTensor]:
    """The features of one part of a FishNet, by resolution.

    They are sums and concatenations, not yet normalized: a network on top of them should begin with
    batch normalization and an activation.

    Args:
        model: a model of `build_fishnet`, with any stem.
        part: "tail", "body" or "head".

    Returns:
        Dict of `keras.KerasTensor` by level, finest first. Level Pn has stride 2ⁿ, as KerasHub's
        feature-pyramid backbones name them: P2 ... P5 with the stem "imagenet", P1 ... P4 with
        "half" and P0 ... P3 with "full".

    Raises:
        ValueError: the part is unknown (lists the valid ones), or the model is not a FishNet.

    Source: arXiv 1901.03495, section 3 and figure 2.
    """
    check_choice("part", part, PARTS)
    names = {layer.name for layer in model.layers}
    missing = [stage for stage in PARTS[part] if stage not in names]
    if missing:
        raise ValueError(f"{model.name} is not a FishNet: it has no layer {missing[0]}.")
    size = model.input.shape[1]
    levels = {}
    for stage in PARTS[part]:
        feature = model.get_layer(stage).output
        stride = size // feature.shape[1]
        levels[f"P{stride.bit_length() - 1}"] = feature
    return dict(sorted(levels.items()))
