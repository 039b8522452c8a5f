"""Loss and metrics of each task: classes, classes and boxes, or a class for each pixel."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# Of the two parts of the box loss beside the cross-entropy, as DETR weighs them.
# Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 4.
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


@dataclasses.dataclass(frozen=True)
class Task:
    """The loss and the metrics of one task."""

    loss: Callable  # from label_smoothing to a loss of (targets, outputs)
    metrics: Callable  # from the number of classes to Keras metrics


def intersection_over_union(boxes: Any, others: Any) -> Any:
    """IoU of pairs of boxes.

    Args:
        boxes: (n, 4): xmin, ymin, xmax, ymax.
        others: likewise.

    Returns:
        (n,), in [0, 1]; 0 for boxes without an area. `keras.utils.bounding_boxes.compute_iou` adds
        1e-7 to the union, which takes 4 % off the IoU of small boxes in [0, 1].
    """
    intersection, union, _ = _areas(boxes, others)
    return intersection / ops.maximum(union, 1e-9)


def generalized_iou(boxes: Any, others: Any) -> Any:
    """IoU less the part of the smallest enclosing box that neither covers; falls with distance.

    Args:
        boxes: (n, 4): xmin, ymin, xmax, ymax.
        others: likewise.

    Returns:
        (n,), in [-1, 1].

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    intersection, union, hull = _areas(boxes, others)
    hull = ops.maximum(hull, 1e-9)
    return intersection / ops.maximum(union, 1e-9) - (hull - union) / hull


def _areas(boxes: Any, others: Any) -> tuple[Any, Any, Any]:
    """Areas of the intersection, of the union and of the smallest box around both."""

    def area(low: Any, high: Any) -> Any:
        return ops.prod(ops.maximum(high - low, 0.0), axis=-1)

    low, high = boxes[:, :2], boxes[:, 2:]
    other_low, other_high = others[:, :2], others[:, 2:]
    intersection = area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - intersection
    return intersection, union, area(ops.minimum(low, other_low), ops.maximum(high, other_high))


class MeanIoU(keras.metrics.Metric):
    """Mean over the classes of the IoU of their pixels, from logits; takes weights of images.

    `keras.metrics.MeanIoU` gives the same numbers, but takes no weight per image, and counts with
    a scatter that is about 30 times slower on JAX.

    Args:
        num_classes: classes, the background among them.
        name: of the metric.
    """

    def __init__(self, num_classes: int, name: str = "mean_iou") -> None:
        super().__init__(name=name, dtype="float32")
        self.num_classes = num_classes
        self.pixels = self.add_variable((num_classes, num_classes), "zeros", name="pixels")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds masks (batch, height, width) and logits (batch, height, width, classes)."""
        true = ops.one_hot(ops.cast(y_true, "int32"), self.num_classes, dtype="float32")
        if sample_weight is not None:
            true *= ops.cast(sample_weight, "float32")[:, None, None, None]
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes, dtype="float32")
        true, predicted = (ops.reshape(x, (-1, self.num_classes)) for x in (true, predicted))
        self.pixels.assign(self.pixels + ops.matmul(ops.transpose(true), predicted))

    def result(self) -> Any:
        """The mean over classes that occur in the masks or in the predictions."""
        intersection = ops.diagonal(self.pixels)
        union = ops.sum(self.pixels, axis=0) + ops.sum(self.pixels, axis=1) - intersection
        occurring = ops.maximum(ops.sum(ops.cast(union > 0, "float32")), 1.0)
        return ops.sum(intersection / ops.maximum(union, 1.0)) / occurring


def cross_entropy(label_smoothing: float = 0.0) -> Callable:
    """Loss on integer labels and logits, with part of the target spread over all classes."""

    def loss(labels: Any, logits: Any) -> Any:
        exact = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        if not label_smoothing:
            return exact
        spread = -ops.mean(ops.log_softmax(logits), axis=-1)
        return (1 - label_smoothing) * exact + label_smoothing * spread

    return loss


def _classification_loss(label_smoothing: float = 0.0) -> Callable:
    classify = cross_entropy(label_smoothing)

    def loss(targets: Any, logits: Any) -> Any:
        if len(targets.shape) == 1:
            return classify(targets, logits)
        label, other, share = ops.unstack(targets, axis=1)  # see `mix_labels`
        return (1 - share) * classify(label, logits) + share * classify(other, logits)

    return loss


def _localization_loss(label_smoothing: float = 0.0) -> Callable:
    classify = cross_entropy(label_smoothing)

    def loss(targets: Any, outputs: Any) -> Any:
        boxes, found = targets[:, 1:], outputs[:, -4:]
        distance = ops.sum(ops.abs(boxes - found), axis=-1)
        overlap = generalized_iou(boxes, found)
        box_loss = L1_WEIGHT * distance + GIOU_WEIGHT * (1 - overlap)
        return classify(targets[:, 0], outputs[:, :-4]) + box_loss

    return loss


def _segmentation_loss(label_smoothing: float = 0.0) -> Callable:
    per_pixel = cross_entropy(label_smoothing)

    def loss(masks: Any, logits: Any) -> Any:
        return ops.mean(per_pixel(masks, logits), axis=(1, 2))

    return loss


def _mean(function: Callable, name: str) -> keras.metrics.Metric:
    return keras.metrics.MeanMetricWrapper(function, name=name)


def _label_metrics(logits_of: Callable) -> list[keras.metrics.Metric]:
    """Metrics of the label, or of the first number of each target; of the logits in the outputs."""

    def top5(labels: Any, logits: Any) -> Any:
        return keras.metrics.sparse_top_k_categorical_accuracy(labels, logits, k=5)

    def metric(function: Callable, name: str) -> keras.metrics.Metric:
        def of_label(targets: Any, outputs: Any) -> Any:
            labels = targets if len(targets.shape) == 1 else targets[:, 0]
            return function(labels, logits_of(outputs))

        return _mean(of_label, name)

    return [
        metric(cross_entropy(), "cross_entropy"),
        metric(keras.metrics.sparse_categorical_accuracy, "top1"),
        metric(top5, "top5"),
    ]


def _classification_metrics(num_classes: int) -> list[keras.metrics.Metric]:
    return _label_metrics(lambda outputs: outputs)


def _localization_metrics(num_classes: int) -> list[keras.metrics.Metric]:
    def iou(targets: Any, outputs: Any) -> Any:
        return intersection_over_union(targets[:, 1:], outputs[:, -4:])

    def localized(targets: Any, outputs: Any) -> Any:
        correct = keras.metrics.sparse_categorical_accuracy(targets[:, 0], outputs[:, :-4])
        return correct * ops.cast(iou(targets, outputs) >= 0.5, "float32")

    return [
        *_label_metrics(lambda outputs: outputs[:, :-4]),
        _mean(iou, "iou"),
        _mean(localized, "localized"),
    ]


def _segmentation_metrics(num_classes: int) -> list[keras.metrics.Metric]:
    def accuracy(masks: Any, logits: Any) -> Any:
        return ops.mean(keras.metrics.sparse_categorical_accuracy(masks, logits), axis=(1, 2))

    return [
        _mean(_segmentation_loss(), "cross_entropy"),
        _mean(accuracy, "pixel_accuracy"),
        MeanIoU(num_classes + 1),
    ]


TASKS = {
    "classification": Task(
        loss=_classification_loss,
        metrics=_classification_metrics,
    ),
    # targets (batch, 5): label and box, xmin, ymin, xmax, ymax in [0, 1]; outputs logits and box
    "localization": Task(
        loss=_localization_loss,
        metrics=_localization_metrics,
    ),
    # targets (batch, height, width): 0 for background, 1 + class; outputs logits of these
    "segmentation": Task(
        loss=_segmentation_loss,
        metrics=_segmentation_metrics,
    ),
}
