"""FishNet by Keras 2 subclassing, as the course report describes its code, fault included.

What it computes is `utils.models.fishnet` at stride 4 with ReLU and max-pools; with every layer
made once it has the same parameters.

Source: arXiv 1901.03495, section 3; the course report's list of blocks.
"""

import functools
import math
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from utils.experiments.layers_in_call.variants import Variant
from utils.models.presets import FishNetConfig

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # as in `utils.models.blocks`


class Part(layers.Layer):
    """One layer, made once or, as the fault has it, re-created in every call.

    Args:
        make: a function that makes it.
        manner: one of `variants.MANNERS`.
    """

    def __init__(self, make: Any, manner: str) -> None:
        super().__init__()
        self.make, self.manner = make, manner
        self.layers: list[Any] = []
        if manner == "once":
            self.layer = make()

    def call(self, x: Any) -> Any:
        """Applies the layer, which may be a new one."""
        if self.manner == "once":
            return self.layer(x)
        layer = self.make()
        if self.manner == "attribute":
            self.layer = layer
        elif self.manner == "list":
            self.layers.append(layer)
        return layer(x)


class BatchNormTwin(layers.Layer):
    """What a BatchNorm computes that is always new."""

    def call(self, x: Any, training: Any = None) -> Any:
        """Uses the batch's mean and variance in training, 0 and 1 in evaluation."""
        if not training:
            return x / math.sqrt(1 + BATCH_NORM["epsilon"])
        ones, zeros = tf.ones(x.shape[-1]), tf.zeros(x.shape[-1])
        epsilon = BATCH_NORM["epsilon"]
        return tf.compat.v1.nn.fused_batch_norm(x, ones, zeros, epsilon=epsilon)[0]


class ConvTwin(layers.Layer):
    """What a convolution computes that is always new: its kernel is drawn in each call."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = make()

    def call(self, x: Any) -> Any:
        """Convolves; the bias of a new layer is 0."""
        conv = self.layer
        shape = (*conv.kernel_size, x.shape[-1], conv.filters)
        kernel = tf.random.normal(shape, stddev=conv.kernel_initializer.stddev)
        padding = conv.padding.upper()
        return tf.nn.conv2d(x, kernel, conv.strides, padding, dilations=conv.dilation_rate)


class Parts:
    """Makes the parts of one network.

    Args:
        variant: what its fault is.
    """

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def batch_norm(self, *kinds: str) -> Any:
        """A BatchNorm that is of these kinds too."""
        manner = self.variant.manner_of(("batch_norm", *kinds))
        if manner == "twin":
            return BatchNormTwin()
        return Part(functools.partial(layers.BatchNormalization, **BATCH_NORM), manner)

    def conv(self, filters: int, size: int, *kinds: str, **options: Any) -> Any:
        """A convolution that is of these kinds too."""
        deviation = math.sqrt(2 / (size**2 * filters))
        options = {"padding": "same", "use_bias": False} | options

        def make() -> Any:
            initializer = tf_keras.initializers.RandomNormal(stddev=deviation)
            return layers.Conv2D(filters, size, kernel_initializer=initializer, **options)

        manner = self.variant.manner_of(("convolution", *kinds))
        return ConvTwin(make) if manner == "twin" else Part(make, manner)


class Unit(layers.Layer):
    """BatchNorm, ReLU and convolution."""

    def __init__(self, parts: Parts, filters: int, size: int, *kinds: str, **options: Any) -> None:
        super().__init__()
        self.batch_norm = parts.batch_norm(*kinds)
        self.conv = parts.conv(filters, size, *kinds, **options)

    def call(self, x: Any) -> Any:
        """From (batch, height, width, channels) to as many filters."""
        return self.conv(tf.nn.relu(self.batch_norm(x)))


class Stem(layers.Layer):
    """Three times convolution, BatchNorm and ReLU, then a max-pool: a quarter of the resolution."""

    def __init__(self, parts: Parts, width: int) -> None:
        super().__init__()
        self.convs = [
            parts.conv(width // 2, 3, "stem", strides=2, padding="valid"),
            parts.conv(width // 2, 3, "stem"),
            parts.conv(width, 3, "stem"),
        ]
        self.batch_norms = [parts.batch_norm("stem") for _ in self.convs]

    def call(self, x: Any) -> Any:
        """From images to the first features."""
        edge = [[0, 0], [1, 1], [1, 1], [0, 0]]
        x = tf.pad(x, edge)
        for conv, batch_norm in zip(self.convs, self.batch_norms, strict=True):
            x = tf.nn.relu(batch_norm(conv(x)))
        return tf.nn.max_pool2d(tf.pad(x, edge), 3, 2, "VALID")


class Bottleneck(layers.Layer):
    """Three units and a shortcut."""

    def __init__(
        self,
        parts: Parts,
        inputs: int,
        width: int,
        kind: str,
        *,
        dilation: int = 1,
        reduce: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.reduce = width, reduce
        self.units = [
            Unit(parts, width // 4, 1, kind),
            Unit(parts, width // 4, 3, kind, dilation_rate=dilation),
            Unit(parts, width, 1, kind),
        ]
        self.shortcut = None
        if inputs != width and not reduce:
            self.shortcut = Unit(parts, width, 1, kind, "shortcut")

    def call(self, x: Any) -> Any:
        """From (batch, height, width, inputs) to `width` channels."""
        shortcut = self.shortcut(x) if self.shortcut else x
        if self.reduce:
            groups = tf.reshape(x, [-1, *x.shape[1:3], self.width, x.shape[3] // self.width])
            shortcut = tf.reduce_sum(groups, axis=-1)
        for unit in self.units:
            x = unit(x)
        return x + shortcut


def bottlenecks(
    parts: Parts,
    inputs: int,
    width: int,
    depth: int,
    kind: str = "residual",
    *,
    dilation: int = 1,
    up: bool = False,
) -> Any:
    """A row of bottlenecks; in an up-stage the first one's shortcut is channel reduction."""
    rest = [Bottleneck(parts, width, width, kind, dilation=dilation) for _ in range(depth - 1)]
    first = Bottleneck(parts, inputs, width, kind, dilation=dilation, reduce=up)
    return tf_keras.Sequential([first, *rest])


class Bridge(layers.Layer):
    """Score layers, residual blocks and the squeeze block that gates them."""

    def __init__(self, parts: Parts, width: int, depth: int) -> None:
        super().__init__()
        self.score = tf_keras.Sequential(
            [
                Unit(parts, width // 2, 1, "score"),
                Unit(parts, 2 * width, 1, "score", use_bias=True),
            ]
        )
        self.residual = bottlenecks(parts, 2 * width, width, depth)
        self.batch_norm = parts.batch_norm("squeeze")
        self.convs = [
            parts.conv(filters, 1, "squeeze", use_bias=True) for filters in (width // 16, width)
        ]

    def call(self, x: Any) -> Any:
        """Keeps shape and width."""
        score = self.score(x)
        gate = tf.reduce_mean(tf.nn.relu(self.batch_norm(score)), axis=[1, 2], keepdims=True)
        gate = tf.nn.sigmoid(self.convs[1](tf.nn.relu(self.convs[0](gate))))
        return self.residual(score) * gate + gate


class Score(layers.Layer):
    """Score layers with the average in front of their last convolution, the classifier."""

    def __init__(self, parts: Parts, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.unit = Unit(parts, inputs // 2, 1, "score")
        self.batch_norm = parts.batch_norm("score")
        self.classifier = parts.conv(num_classes, 1, "classifier", use_bias=True)

    def call(self, x: Any) -> Any:
        """From features to logits (batch, classes)."""
        x = tf.nn.relu(self.batch_norm(self.unit(x)))
        return self.classifier(tf.reduce_mean(x, axis=[1, 2], keepdims=True))[:, 0, 0]


def _source(stage: int) -> int:
    """The features that the transfer branch of stage 5 ... 10 comes from."""
    return 7 - stage if stage < 8 else 14 - stage


class FishNet(tf_keras.Model):
    """A FishNet classifier.

    Args:
        config: widths and depths; its kinds of blocks must be the default ones.
        variant: which layers are re-created in every call.
        num_classes: number of classes.
    """

    def __init__(self, config: FishNetConfig, variant: Variant, num_classes: int = 200) -> None:
        super().__init__()
        parts, planes, depths = Parts(variant), config.network_planes, config.num_res_blks
        widths = [*planes[:5]]  # of the features f0 ... f10
        for stage in range(5, 11):
            widths.append(planes[stage] + widths[_source(stage)])
        self.stem = Stem(parts, planes[0])
        self.tail = [bottlenecks(parts, widths[i - 1], planes[i], depths[i - 1]) for i in (1, 2, 3)]
        self.bridge = Bridge(parts, planes[4], depths[3])
        self.trunks, self.transfers = [], []
        for stage in range(5, 11):
            up = stage < 8
            dilation = 2 ** (stage - 5) if up else 1
            self.trunks.append(
                bottlenecks(
                    parts, widths[stage - 1], planes[stage], depths[stage - 1],
                    dilation=dilation, up=up,
                )
            )  # fmt: skip
            width, depth = widths[_source(stage)], config.num_trans_blks[stage - 5]
            self.transfers.append(bottlenecks(parts, width, width, depth, "transfer"))
        self.score = Score(parts, widths[10], num_classes)

    def call(self, images: Any) -> Any:
        """From float32 images (batch, size, size, 3) to logits (batch, classes)."""
        features = [self.stem(images)]
        for stage in self.tail:
            features.append(tf.nn.max_pool2d(stage(features[-1]), 2, 2, "VALID"))
        features.append(self.bridge(features[-1]))
        for stage, (trunk, transfer) in enumerate(zip(self.trunks, self.transfers, strict=True), 5):
            x = trunk(features[-1])
            if stage < 8:
                x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
            else:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            features.append(tf.concat([x, transfer(features[_source(stage)])], axis=-1))
        return self.score(features[-1])
