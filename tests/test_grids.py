"""The figures of images: what is in each place, how it is titled and framed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from utils.figures import grids, style
from utils.training.predictions import confused_images, load_predictions


@pytest.fixture(autouse=True)
def _styled():
    style.set_style()
    yield
    plt.close("all")


def images(count, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_a_grid_leaves_places_empty_and_wraps_titles():
    first, second = images(2)
    _, panels = grids.image_grid(
        [first, None, second], 2, titles=["a", "", "guinea pig " * 8], colors=["C1", "black", "C2"],
        row_labels=["one", "two"],
    )  # fmt: skip
    np.testing.assert_array_equal(panels[0].images[0].get_array(), first)
    np.testing.assert_array_equal(panels[2].images[0].get_array(), second)
    assert [axes.axison for axes in panels] == [True, False, True]
    assert panels[0].get_title() == "a"
    lines = panels[2].get_title().split("\n")
    assert len(lines) > 1
    assert " ".join(lines) == " ".join(["guinea pig"] * 8)
    assert panels[2].title.get_color() == "C2"
    assert [panels[0].get_ylabel(), panels[2].get_ylabel()] == ["one", "two"]
    assert len(panels[0].figure.axes) == 4
    assert not panels[0].figure.axes[3].axison


@pytest.fixture(scope="module")
def predictions():
    return load_predictions("report/results/simple-tuned-8ep-seed0.npz")


def test_samples_have_words_and_boxes(predictions):
    samples = [(predictions["jpeg"][0], "cat, house cat", (0.25, 0.5, 0.75, 1.0))]
    samples += [(predictions["jpeg"][1], "dog", None)]
    one, two, *_ = grids.plot_samples(samples).axes
    assert (one.get_title(), two.get_title()) == ("cat", "dog")
    white, box = one.patches
    assert box.get_bbox().bounds == (15.5, 31.5, 32, 32)
    assert len(two.patches) == 0


def test_a_batch_is_shown_whole():
    assert len(grids.plot_batch(images(24)).axes) == 24


def test_predictions_are_framed_by_whether_they_are_right(predictions):
    figure = grids.plot_predictions(predictions, rows=2, columns=3)
    kept = predictions["sample"][:6]
    right = predictions["labels"][kept] == predictions["classes"][kept, 0]
    assert 0 < right.sum() < 6
    for axes, is_right in zip(figure.axes, right, strict=True):
        color = axes.spines["left"].get_edgecolor()[:3]
        assert color == pytest.approx(to_rgb(grids.TRUE if is_right else grids.PREDICTED))
        assert (", is " in axes.get_title()) != is_right


def test_confused_images_have_a_row_for_each_pair(predictions):
    groups = confused_images(predictions, pairs=2)
    groups[1] = groups[1][:1]
    figure = grids.plot_confused_images(predictions, groups)
    columns = len(groups[0])
    shown = [bool(axes.images) for axes in figure.axes]
    assert shown == [True] * (columns + 1) + [False] * (columns - 1)
    names = [words.split(",")[0] for words in predictions["words"]]
    index = groups[1][0]
    label, predicted = predictions["labels"][index], predictions["classes"][index, 0]
    assert figure.axes[columns].get_title() == f"{names[label]}\nas {names[predicted]}"


def test_grad_cam_lays_the_maps_over_the_images():
    maps = {"tail_1": np.zeros((2, 4, 4)), "head_1": np.ones((2, 1, 1))}
    figure = grids.plot_grad_cam(images(2), maps, ["cat", "dog"], right=[True, False])
    axes = np.array(figure.axes).reshape(3, 2)
    assert [a.get_ylabel() for a in axes[:, 0]] == ["image", "tail 1\n4×4", "head 1\n1×1"]
    assert [a.title.get_color() for a in axes[0]] == ["black", grids.PREDICTED]
    assert [a.get_title() for a in axes[0]] == ["cat", "dog"]
    assert [len(a.images) for a in axes.flat] == [1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(axes[2, 1].images[1].get_array(), [[1]])
    assert list(axes[2, 1].images[1].get_extent()) == list(axes[2, 1].images[0].get_extent())


def test_boxes_true_and_predicted():
    targets = np.array([[0, 0, 0, 0.5, 0.5], [1, 0, 0, 1, 1]])
    outputs = np.array([[2.0, 1, 0.5, 0.5, 1, 1], [2.0, 1, -1, 0, 1, 2]])
    figure = grids.plot_boxes(images(2), targets, outputs, ["cat", "dog"], columns=2)
    right, wrong = figure.axes
    assert (right.get_title(), wrong.get_title()) == ("cat", "cat")
    assert (right.title.get_color(), wrong.title.get_color()) == ("black", grids.PREDICTED)
    _, true, _, predicted = (patch.get_bbox().bounds for patch in right.patches)
    assert (true, predicted) == ((-0.5, -0.5, 4, 4), (3.5, 3.5, 4, 4))
    assert wrong.patches[3].get_bbox().bounds == (-0.5, -0.5, 8, 8)  # cut at the image's edge
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["true", "predicted"]


def test_masks_show_what_is_right_wrong_and_missed():
    masks = np.array([[[0, 0], [1, 2]]])
    figure = grids.plot_masks(images(1, 2), masks, {"FishNet": np.array([[[0, 3], [1, 0]]])})
    image, mask, predicted = (axes.images[0].get_array() for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["image", "mask", "FishNet"]
    background, right, wrong, missed = predicted.reshape(4, 3)[[0, 2, 1, 3]].tolist()
    assert (background, missed) == ([224] * 3, [0] * 3)
    assert len({tuple(color) for color in (background, right, wrong, missed)}) == 4
    assert mask.reshape(4, 3).tolist() == [background, background, right, right]
