import numpy as np
import pytest

from utils.models.build import build_model, count_parameters, start_from
from utils.training.tasks import (
    TASKS,
    MeanIoU,
    cross_entropy,
    generalized_iou,
    intersection_over_union,
)

pytestmark = pytest.mark.tracing

# Pairs of boxes: the same; a quarter shared; side by side; far apart; nothing.
BOXES = np.float32([[0, 0, 1, 1], [0, 0, 0.4, 0.4], [0, 0, 0.5, 1], [0, 0, 0.1, 0.1], [0, 0, 0, 0]])
OTHERS = np.float32(
    [[0, 0, 1, 1], [0.2, 0.2, 0.6, 0.6], [0.5, 0, 1, 1], [0.9, 0.9, 1, 1], [0.5, 0.5, 1, 1]]
)


def test_overlap_of_boxes():
    iou = intersection_over_union(BOXES, OTHERS)
    np.testing.assert_allclose(iou, [1, 0.04 / 0.28, 0, 0, 0], atol=1e-6)
    expected = [1, 0.04 / 0.28 - 0.08 / 0.36, 0, -0.98, -0.75]
    np.testing.assert_allclose(generalized_iou(BOXES, OTHERS), expected, atol=1e-6)


def test_mean_iou_by_hand():
    metric = MeanIoU(4)
    masks = np.array([[[0, 0], [1, 1]], [[2, 2], [2, 2]]])
    predicted = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])
    metric.update_state(masks, np.eye(4)[predicted])
    # Of class 0: 1 of 6; of 1: 2 of 3; of 2: nothing; 3 does not occur.
    assert float(metric.result()) == pytest.approx((1 / 6 + 2 / 3 + 0) / 3)
    metric.reset_state()
    metric.update_state(masks, np.eye(4)[predicted], sample_weight=np.array([1.0, 0.0]))
    assert float(metric.result()) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_loss_of_a_box_falls_with_its_distance():
    loss = TASKS["localization"].loss(0.0)
    logits = np.zeros((5, 200), "float32")
    targets = np.concatenate([np.zeros((5, 1)), BOXES], axis=1).astype("float32")
    found = np.asarray(loss(targets, np.concatenate([logits, OTHERS], axis=1)))
    np.testing.assert_allclose(found[0], np.log(200), rtol=1e-5)
    np.testing.assert_allclose(found[2], np.log(200) + 5 * 1.0 + 2, rtol=1e-5)
    assert found[3] > found[2]


def test_label_smoothing():
    logits = np.float32([[2, 0, -1]])
    p = np.exp(logits[0]) / np.exp(logits).sum()
    expected = -(0.9 * np.log(p[0]) + 0.1 * np.log(p).mean())
    np.testing.assert_allclose(cross_entropy(0.1)(np.array([0]), logits), [expected], rtol=1e-5)


def test_loss_and_metrics_of_mixed_images():
    logits = np.float32([[2, 0, -1], [0, 1, 3]])
    targets = np.float32([[0, 2, 0.25], [1, 2, 0.5]])
    loss = TASKS["classification"].loss(0.1)
    larger, smaller = (np.asarray(loss(targets[:, i].astype(int), logits)) for i in (0, 1))
    expected = [0.75 * larger[0] + 0.25 * smaller[0], (larger[1] + smaller[1]) / 2]
    np.testing.assert_allclose(loss(targets, logits), expected, rtol=1e-6)
    for metric in TASKS["classification"].metrics(3):
        metric.update_state(targets, logits)
        mixed = float(metric.result())
        metric.reset_state()
        metric.update_state(targets[:, 0].astype(int), logits)
        assert mixed == float(metric.result()), metric.name


def test_metrics_of_localization():
    metrics = {metric.name: metric for metric in TASKS["localization"].metrics(3)}
    targets = np.float32([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1], [2, 0, 0, 1, 1]])
    right, wrong = [5, 0, 0], [5, 0, 0]
    outputs = np.float32([[*right, 0, 0, 1, 0.6], [*wrong, 0, 0, 1, 1], [0, 0, 5, 0, 0, 1, 0.4]])
    for metric in metrics.values():
        metric.update_state(targets, outputs)
    found = {name: float(metric.result()) for name, metric in metrics.items()}
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["iou"] == pytest.approx((0.6 + 1 + 0.4) / 3)
    assert found["localized"] == pytest.approx(1 / 3)  # wrong class; too little overlap


@pytest.mark.parametrize("preset", ["simple", "simple_tail", "resnet50", "residual"])
def test_localization_is_a_box_beside_the_logits(preset):
    model = build_model(preset, num_classes=7, task="localization")
    assert model.output.shape == (None, 11)
    images = np.random.default_rng(0).standard_normal((3, 64, 64, 3))
    boxes = np.asarray(model(images))[:, 7:]
    assert np.all(boxes[:, :2] <= boxes[:, 2:])
    assert np.all((boxes >= -0.5) & (boxes <= 1.5))
    box = model.get_layer("box")
    positions = model.get_layer("box_features").input.shape[1]
    assert positions == 2  # what is where is not averaged away
    assert box.kernel.shape[0] % positions**2 == 0
    # However many features there are, the first step of an optimizer moves a box as far.
    assert model.get_layer("box_rescaling").scale == pytest.approx(box.kernel.shape[0] ** -0.5)


@pytest.mark.parametrize(
    ("preset", "stem", "parameters"),
    [
        ("simple", "imagenet", 521_817),
        ("simple", "full", 521_817),
        ("simple_tail", "imagenet", 62_001),
        ("unet", "imagenet", 541_169),
    ],
)
def test_segmentation_has_logits_for_each_pixel(preset, stem, parameters):
    model = build_model(preset, num_classes=24, stem=stem, task="segmentation")
    assert model.output.shape == (None, 64, 64, 25)
    assert count_parameters(model) == parameters


def test_a_residual_network_of_the_size_of_simple():
    sizes = [count_parameters(build_model(name)) for name in ("simple", "residual")]
    assert sizes == [654_200, 655_480]


def test_other_networks_have_no_pyramid():
    with pytest.raises(ValueError, match="needs a FishNet or unet. Received: preset='resnet50'"):
        build_model("resnet50", task="segmentation")


def test_a_classifier_is_a_start_for_other_tasks(tmp_path):
    classifier = build_model("simple", num_classes=7)
    classifier.save(tmp_path / "classifier.keras")
    boxes = build_model("simple", num_classes=7, task="localization")
    assert start_from(boxes, tmp_path / "classifier.keras") == ["box"]
    np.testing.assert_array_equal(
        boxes.get_layer("logits").kernel, classifier.get_layer("logits").kernel
    )
    pixels = build_model("simple", num_classes=7, task="segmentation")
    kept = start_from(pixels, tmp_path / "classifier.keras")
    assert all(name.startswith("decoder") for name in kept)
    assert len(kept) == 12
    np.testing.assert_array_equal(
        pixels.get_layer("head_3_block1_conv2").kernel,
        classifier.get_layer("head_3_block1_conv2").kernel,
    )


def test_top5_counts_five():
    logits = np.tile(-np.arange(7, dtype="float32"), (7, 1))  # the classes in their order
    (top5,) = (m for m in TASKS["classification"].metrics(7) if m.name == "top5")
    top5.update_state(np.arange(7), logits)
    assert float(top5.result()) == pytest.approx(5 / 7)


def test_label_smoothing_reaches_boxes_and_masks():
    logits = np.float32([[2, 0, -1]])
    expected = cross_entropy(0.1)(np.array([0]), logits)
    outputs = np.concatenate([logits, np.float32([[0, 0, 1, 1]])], axis=1)
    loss = TASKS["localization"].loss(0.1)(np.float32([[0, 0, 0, 1, 1]]), outputs)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    masks, pixels = np.zeros((1, 2, 2), "uint8"), np.tile(logits, (1, 2, 2, 1))
    np.testing.assert_allclose(TASKS["segmentation"].loss(0.1)(masks, pixels), expected, rtol=1e-5)


def test_loss_and_metrics_of_segmentation_by_hand():
    masks = np.array([[[0, 0], [1, 2]], [[2, 2], [2, 2]]])
    logits = np.float32(5 * np.eye(3)[np.array([[[0, 0], [1, 1]], [[2, 0], [0, 0]]])])
    right, wrong = np.log(np.exp(5) + 2) - 5, np.log(np.exp(5) + 2)
    expected = [(3 * right + wrong) / 4, (right + 3 * wrong) / 4]
    np.testing.assert_allclose(TASKS["segmentation"].loss(0.0)(masks, logits), expected, rtol=1e-4)
    found = {}
    for metric in TASKS["segmentation"].metrics(2):
        metric.update_state(masks, logits)
        found[metric.name] = float(metric.result())
    assert found["pixel_accuracy"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    # Of background 2 of 5, of the first class 1 of 2, of the second 1 of 5.
    assert found["mean_iou"] == pytest.approx((2 / 5 + 1 / 2 + 1 / 5) / 3)


def test_an_iou_of_one_half_is_localized():
    (metric,) = (m for m in TASKS["localization"].metrics(3) if m.name == "localized")
    metric.update_state(np.float32([[0, 0, 0, 1, 1]]), np.float32([[5, 0, 0, 0, 0, 1, 0.5]]))
    assert float(metric.result()) == 1
