"""What a network is trained for: classes, classes and boxes, or a class for each pixel.

A task is a head on a classifier, the loss, and the metrics that a result reports.
"""

import dataclasses
from collections.abc import Callable

import keras
from keras import layers, ops

from utils.models.blocks import bn_act, conv
from utils.models.pyramid import PARTS, pyramid_outputs

# Of the two parts of the box loss beside the cross-entropy, as DETR weighs them.
# Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0
DECODER_WIDTH = 32  # channels

TITLES = {  # of what a result reports
    **{"loss": "cross-entropy", "top1": "top-1", "top5": "top-5", "iou": "IoU"},
    **{"localized": "localized", "accuracy": "pixel accuracy"},
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One task."""

    add_head: Callable  # from a classifier and its number of classes to the network of the task
    loss: Callable  # from label_smoothing to a loss of (targets, outputs)
    metrics: Callable  # from the number of classes to Keras metrics
    reported: dict  # name in a result: name of the metric; "loss" is the cross-entropy alone
    in_percent: tuple  # names in a result, in the order of the log


def intersection_over_union(boxes, others):
    """IoU of pairs of boxes.

    Args:
        boxes: (n, 4): xmin, ymin, xmax, ymax.
        others: likewise.

    Returns:
        (n,), in [0, 1]; 0 for boxes without an area.
    """
    shared, union, _ = _areas(boxes, others)
    return shared / ops.maximum(union, 1e-9)


def generalized_iou(boxes, others):
    """IoU less the share of the smallest enclosing box that neither covers; falls with distance.

    Args:
        boxes: (n, 4): xmin, ymin, xmax, ymax.
        others: likewise.

    Returns:
        (n,), in [-1, 1].

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    shared, union, hull = _areas(boxes, others)
    hull = ops.maximum(hull, 1e-9)
    return shared / ops.maximum(union, 1e-9) - (hull - union) / hull


def _areas(boxes, others):
    """Areas of the intersection, of the union and of the smallest box around both."""

    def area(low, high):
        return ops.prod(ops.maximum(high - low, 0.0), axis=-1)

    low, high = boxes[:, :2], boxes[:, 2:]
    other_low, other_high = others[:, :2], others[:, 2:]
    shared = area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - shared
    return shared, union, area(ops.minimum(low, other_low), ops.maximum(high, other_high))


class MeanIoU(keras.metrics.Metric):
    """Mean over the classes of the IoU of their pixels, from logits; takes weights of images.

    Args:
        num_classes: classes, the background among them.
        name: of the metric.
    """

    def __init__(self, num_classes, name="mean_iou"):
        super().__init__(name=name, dtype="float32")
        self.num_classes = num_classes
        self.pixels = self.add_variable((num_classes, num_classes), "zeros", name="pixels")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds masks (batch, height, width) and logits (batch, height, width, classes)."""
        true = ops.one_hot(ops.cast(y_true, "int32"), self.num_classes, dtype="float32")
        if sample_weight is not None:
            true *= ops.cast(sample_weight, "float32")[:, None, None, None]
        said = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes, dtype="float32")
        true, said = (ops.reshape(x, (-1, self.num_classes)) for x in (true, said))
        self.pixels.assign(self.pixels + ops.matmul(ops.transpose(true), said))

    def result(self):
        """The mean over classes that occur in the masks or in what was said."""
        shared = ops.diagonal(self.pixels)
        union = ops.sum(self.pixels, axis=0) + ops.sum(self.pixels, axis=1) - shared
        occurring = ops.maximum(ops.sum(ops.cast(union > 0, "float32")), 1.0)
        return ops.sum(shared / ops.maximum(union, 1.0)) / occurring


def cross_entropy(label_smoothing=0.0):
    """Loss on integer labels and logits, with a share of the target spread over all classes."""

    def loss(labels, logits):
        exact = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        if not label_smoothing:
            return exact
        spread = -ops.mean(ops.log_softmax(logits), axis=-1)
        return (1 - label_smoothing) * exact + label_smoothing * spread

    return loss


def _same(classifier, num_classes):
    return classifier


def _with_box(classifier, num_classes):
    """Adds a box, from the features before the last average: where a thing is, is known there."""
    pooling = [x for x in classifier.layers if isinstance(x, layers.GlobalAveragePooling2D)][-1]
    x = layers.Flatten(name="box_features")(pooling.input)
    # Thousands of features: with a rate of 0.5 the first steps would drive the sigmoid to its ends.
    x = layers.Rescaling(x.shape[-1] ** -0.5, name="box_rescaling")(x)
    x = layers.Dense(4, activation="sigmoid", dtype="float32", name="box")(x)
    centre, size = ops.split(x, 2, axis=-1)
    outputs = [classifier.output, centre - size / 2, centre + size / 2]
    outputs = layers.Concatenate(dtype="float32", name="logits_and_box")(outputs)
    return keras.Model(classifier.input, outputs, name=classifier.name)


def _with_decoder(classifier, num_classes):
    """Gives each pixel logits of background and classes."""
    names = {layer.name for layer in classifier.layers}
    if "unet_features" in names:  # a U-Net has its decoder already
        x = classifier.get_layer("unet_features").output
    else:
        x = _decoded(pyramid_outputs(classifier, "head" if PARTS["head"][-1] in names else "tail"))
    x = conv(x, num_classes + 1, 1, "decoder_logits", use_bias=True)
    stride = classifier.input.shape[1] // x.shape[1]
    if stride > 1:
        x = layers.UpSampling2D(stride, interpolation="bilinear", name="decoder_upsample")(x)
    x = layers.Activation("linear", dtype="float32", name="decoder_pixels")(x)
    return keras.Model(classifier.input, x, name=classifier.name)


def _decoded(levels):
    """Adds up a pyramid at its finest resolution."""
    parts = []
    for i, (level, x) in enumerate(levels.items()):
        name = f"decoder_{level.lower()}"
        x = conv(bn_act(x, "relu", name), DECODER_WIDTH, 1, f"{name}_conv")
        if i:
            x = layers.UpSampling2D(2**i, interpolation="bilinear", name=f"{name}_upsample")(x)
        parts.append(x)
    x = bn_act(layers.Add(name="decoder_add")(parts), "relu", "decoder", 1)
    return bn_act(conv(x, 2 * DECODER_WIDTH, 3, "decoder_conv1"), "relu", "decoder", 2)


def _localization_loss(label_smoothing):
    classify = cross_entropy(label_smoothing)

    def loss(targets, outputs):
        boxes, found = targets[:, 1:], outputs[:, -4:]
        apart = ops.sum(ops.abs(boxes - found), axis=-1)
        overlap = generalized_iou(boxes, found)
        box_loss = L1_WEIGHT * apart + GIOU_WEIGHT * (1 - overlap)
        return classify(targets[:, 0], outputs[:, :-4]) + box_loss

    return loss


def _segmentation_loss(label_smoothing=0.0):
    by_pixel = cross_entropy(label_smoothing)

    def loss(masks, logits):
        return ops.mean(by_pixel(masks, logits), axis=(1, 2))

    return loss


def _mean(function, name):
    return keras.metrics.MeanMetricWrapper(function, name=name)


def _classification_metrics(num_classes):
    return [
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        keras.metrics.SparseCategoricalAccuracy("top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, "top5"),
    ]


def _localization_metrics(num_classes):
    def of_classes(metric):
        return lambda targets, outputs: metric(targets[:, 0], outputs[:, :-4])

    def iou(targets, outputs):
        return intersection_over_union(targets[:, 1:], outputs[:, -4:])

    def localized(targets, outputs):
        right = keras.metrics.sparse_categorical_accuracy(targets[:, 0], outputs[:, :-4])
        return right * ops.cast(iou(targets, outputs) >= 0.5, "float32")

    def top5(labels, logits):
        return keras.metrics.sparse_top_k_categorical_accuracy(labels, logits, k=5)

    return [
        _mean(of_classes(cross_entropy()), "cross_entropy"),
        _mean(of_classes(keras.metrics.sparse_categorical_accuracy), "top1"),
        _mean(of_classes(top5), "top5"),
        _mean(iou, "iou"),
        _mean(localized, "localized"),
    ]


def _segmentation_metrics(num_classes):
    def accuracy(masks, logits):
        return ops.mean(keras.metrics.sparse_categorical_accuracy(masks, logits), axis=(1, 2))

    return [
        _mean(_segmentation_loss(), "cross_entropy"),
        _mean(accuracy, "pixel_accuracy"),
        MeanIoU(num_classes + 1),
    ]


TASKS = {
    "classification": Task(
        add_head=_same,
        loss=cross_entropy,
        metrics=_classification_metrics,
        reported={"loss": "cross_entropy", "top1": "top1", "top5": "top5"},
        in_percent=("top1", "top5"),
    ),
    # targets (batch, 5): label and box, xmin, ymin, xmax, ymax in [0, 1]; outputs logits and box
    "localization": Task(
        add_head=_with_box,
        loss=_localization_loss,
        metrics=_localization_metrics,
        reported={
            **{"loss": "cross_entropy", "top1": "top1", "top5": "top5"},
            **{"iou": "iou", "localized": "localized"},
        },
        in_percent=("top1", "iou", "localized"),
    ),
    # targets (batch, height, width): 0 for background, 1 + class; outputs logits of these
    "segmentation": Task(
        add_head=_with_decoder,
        loss=_segmentation_loss,
        metrics=_segmentation_metrics,
        reported={"loss": "cross_entropy", "accuracy": "pixel_accuracy", "iou": "mean_iou"},
        in_percent=("accuracy", "iou"),
    ),
}
