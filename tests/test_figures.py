"""What the figures show; how they look is for people to judge."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from utils.analysis.published import COURSE_REPORT, IMAGENET, LITERATURE
from utils.figures import charts, experiment_charts, grids, style
from utils.training.predictions import confused_images, load_predictions


@pytest.fixture(autouse=True)
def _styled():
    style.set_style()
    yield
    plt.close("all")


def bars(axes):
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_png_of_256_colors_and_a_pdf_only_when_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    figure = grids.plot_batch([noise] * 12)
    style.save_figure(figure, "a", tmp_path / "new")
    style.save_figure(figure, "b", tmp_path / "new", vector=True)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.png", "b.pdf", "b.png"]
    image = Image.open(tmp_path / "new/a.png")
    assert image.mode == "P"
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert image.width == pytest.approx(style.WIDTH * style.DPI, rel=0.05)


def test_committed_figures_are_small_and_used():
    sizes = {path.name: path.stat().st_size for path in Path("figures").iterdir()}
    assert max(sizes.values()) < 400_000
    assert sum(sizes.values()) < 4_000_000
    report = Path("report/report.typ").read_text()
    assert {name for name in sizes if name.endswith(".pdf")} == set(
        re.findall(r"figures/([\w-]+\.pdf)", report)
    )


def test_the_notebooks_write_the_pdfs_that_the_report_shows():
    report = Path("report/report.typ").read_text()
    cells = "".join(path.read_text() for path in Path("notebooks").glob("*.ipynb"))
    written = re.findall(r'save_figure\(figure, \\"([\w-]+)\\", figures_dir, vector=True\)', cells)
    assert sorted(written) == sorted(re.findall(r"figures/([\w-]+)\.pdf", report))


@pytest.mark.parametrize("count", [3, 10, 11, 25])
def test_all_names_have_colors_of_their_own(count):
    colors = style.colors_of([*map(str, range(count)), "0"])
    assert list(colors) == [*map(str, range(count))]
    assert len(set(colors.values())) == count


def result(preset, epochs, recipe="tuned", **changes):
    history = {name: [0.5] * epochs for name in ("loss", "val_loss", "top1", "val_top1")}
    metrics = {"split": "val"}
    return {"preset": preset, "recipe": recipe, "history": history, "metrics": metrics, **changes}


def test_curves_show_every_run_in_the_color_of_its_preset():
    results = [result(f"preset {i}", 4) for i in range(11)]
    results += [result("preset 3", 2), result("preset 3", 2, recipe="course")]
    figure = charts.plot_curves(results)
    tuned, _, course, _ = figure.axes
    assert len(tuned.lines) == 2 * 12
    assert len({line.get_color() for line in tuned.lines}) == 11
    of_preset_3 = [line for line in tuned.lines if line.get_color() == tuned.lines[6].get_color()]
    assert [line.get_alpha() for line in of_preset_3] == [1, 1, 0.5, 0.5]
    assert {line.get_color() for line in course.lines} == {of_preset_3[0].get_color()}
    assert [line.get_linestyle() for line in course.lines] == ["--", "-"]
    names = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert names == [*(f"preset {i}, 4 epochs" for i in range(11)), "preset 3, 2 epochs"]
    assert legend(figure) == ["train", "val"]


def test_curves_of_segmentation_show_the_iou():
    history = {name: [0.1, 0.3] for name in ("loss", "val_loss", "iou", "val_iou")}
    _, right = charts.plot_curves([result("simple", 2, history=history)]).axes
    assert right.get_ylabel() == "IoU"
    assert list(right.lines[1].get_ydata()) == [0.1, 0.3]


def test_curves_join_the_epochs_that_were_evaluated():
    history = {"loss": [3, 2, 1], "val_loss": [None, 2, None], "top1": [0.1, 0.2, 0.3]}
    history["val_top1"] = [None, 0.2, 0.3]
    _, right = charts.plot_curves([result("simple", 3, history=history)]).axes
    assert [list(line.get_xdata()) for line in right.lines[:2]] == [[1, 2, 3], [2, 3]]
    assert list(right.lines[1].get_ydata()) == [0.2, 0.3]


@pytest.fixture
def table():
    """Three runs; the short one of `simple` is left out where the longest counts."""
    rows = [("a", "simple", "tuned", 8, 0.4), ("b", "simple", "tuned", 20, 0.46)]
    rows.append(("c", "simple", "course", 8, 0.25))
    frame = pd.DataFrame(rows, columns=["run", "preset", "recipe", "epochs", "val top-1"])
    train = {"train top-1": [0.5, 0.55, 0.35], "clean train top-1": np.nan}
    return frame.assign(parameters=654_200, **train)


def test_size_shows_the_longest_runs_and_each_name_once(table):
    figure = charts.plot_size(table, COURSE_REPORT, LITERATURE)
    (axes,) = figure.axes
    tuned, course, theirs, published = (
        part.get_offsets()
        for part in axes.collections
        if part.get_offsets().shape[0] and part.get_label() in legend(figure)
    )
    assert np.allclose(tuned, [[654_200, 0.46]])
    assert np.allclose(course, [[654_200, 0.25]])
    assert np.allclose(theirs[:, 1], COURSE_REPORT["val_top1"])
    assert np.allclose(published[:, 0], LITERATURE["parameters"])
    others = ["medium", "complex", "course report's ResNet", *LITERATURE["name"]]
    assert texts(axes) == ["simple", *others]


def test_imagenet_shows_errors_by_family():
    (axes,) = charts.plot_imagenet(IMAGENET).axes
    assert [line.get_label() for line in axes.lines] == ["FishNet", "ResNet", "DenseNet"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.2259, 0.2186, 0.2124])
    assert texts(axes) == list(IMAGENET["name"])


def test_gap_shows_train_and_val_of_each_run(table):
    (axes,) = charts.plot_gap(table).axes
    _, train, val = (part.get_offsets()[:, 0] for part in axes.collections)
    assert list(train) == [0.5, 0.55, 0.35]
    assert list(val) == [0.4, 0.46, 0.25]
    (axes,) = charts.plot_gap(table.assign(**{"clean train top-1": [0.6, np.nan, 0.4]})).axes
    assert list(axes.collections[1].get_offsets()[:, 0]) == [0.6, 0.55, 0.4]


def test_reliability_has_a_line_a_run_and_its_error():
    frame = pd.DataFrame({"confidence": [0.2, 0.8], "accuracy": [0.3, 0.8], "images": [1, 1]})
    figure = charts.plot_reliability({f"run-{i}-seed0": frame for i in range(12)})
    diagonal, *lines = figure.axes[0].lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert len(lines) == 12
    assert list(lines[0].get_ydata()) == [0.3, 0.8]
    assert legend(figure)[0] == "run-0: ECE 5.0%"


def test_per_class_shows_both_ends():
    accuracy = pd.Series(np.linspace(0, 1, 7), index=[*"abcdefg"])
    worst, best = charts.plot_per_class(accuracy, count=2).axes
    assert (ticks(worst.yaxis), bars(worst)) == (["b", "a"], pytest.approx([1 / 6, 0]))
    assert (ticks(best.yaxis), bars(best)) == (["f", "g"], pytest.approx([5 / 6, 1]))
    assert worst.lines[0].get_xdata()[0] == 0.5


def test_confused_pairs_show_both_directions():
    pairs = pd.DataFrame(
        {"class a": ["cat", "car"], "class b": ["dog", "van"],
         "a predicted as b": [5, 3], "b predicted as a": [4, 1]}
    )  # fmt: skip
    (axes,) = charts.plot_confused(pairs).axes
    assert bars(axes) == [3, 5, 1, 4]  # the most confused on top
    assert [patch.get_x() for patch in axes.patches] == [0, 0, 3, 5]
    assert ticks(axes.yaxis) == ["car (a) – van (b)", "cat (a) – dog (b)"]


def test_gradient_norms_have_a_panel_each():
    norms = {title: {"stem": 0.1, "logits": 2.0} for title in ("one", "two", "three")}
    *panels, empty = charts.plot_gradient_norms(norms).axes
    assert [axes.get_title() for axes in panels] == ["one", "two", "three"]
    assert [patch.get_height() for patch in panels[0].patches] == [0.1, 2.0]
    assert not empty.axison


def test_ablations_show_differences_and_both_accuracies():
    frame = pd.DataFrame(
        {"changed": ["nothing", "no augmentation"], "train_top1": [0.3, 0.4], "top1": [0.25, 0.2],
         "difference": [0.0, -5.0], "uncertainty": [0.6, 0.6]}
    )  # fmt: skip
    figure = experiment_charts.plot_ablations(frame)
    left, right = figure.axes
    band, *widths = bars(left)
    assert (band, widths) == (1.2, [0, -5])
    assert left.yaxis_inverted()  # the first row on top
    assert [list(part.get_offsets()[:, 0]) for part in right.collections[1:]] == [
        [30, 40],
        [25, 20],
    ]
    assert legend(figure) == ["uncertainty between seeds", "train", "hold-out"]


def test_variants_are_labeled_in_words():
    common = {"difference": [1.0, -2.0], "uncertainty": [0.5, 0.5]}
    pools = pd.DataFrame({"changed": ["max_pool_3x3", "convolution"], **common})
    rates = pd.DataFrame(
        {"changed": ["sgd × 0.333", "adam × 3"], "optimizer": ["sgd", "adam"], "rate": [1 / 3, 3],
         **common}
    )  # fmt: skip
    upper, lower = experiment_charts.plot_variants(
        {"down_sampling": pools, "optimizer": rates}
    ).axes
    assert (upper.get_title(loc="left"), lower.get_title(loc="left")) == (
        "down-sampling",
        "optimizer",
    )
    assert ticks(upper.yaxis) == ["max-pool 3×3", "strided convolution"]
    assert ticks(lower.yaxis) == ["SGD, 1/3 × its default rate", "Adam, 3 × its default rate"]
    assert bars(upper) == [1.0, 1.0, -2.0]  # the band, then the bars


def test_every_value_of_a_study_has_a_label():
    from utils.experiments.search import SPACES

    for study in ("down_sampling", "activation", "optimizer"):
        assert set(SPACES[study][study]) <= experiment_charts.LABELS.keys()


def test_comparison_shows_all_networks_but_the_first():
    frame = pd.DataFrame(
        {"top1": [0.5, 0.4, 0.6], "top1 difference": [0, -10, 10], "top1 error": [0, 1, 2],
         "iou": [0.5, 0.5, 0.5], "iou difference": [0, 1, 2], "iou error": [0, 1, 1]},
        index=["FishNet", "tail", "residual"],
    )  # fmt: skip
    figure = experiment_charts.plot_comparison({"region": frame})
    (axes,) = figure.axes
    assert bars(axes) == [-10, 1, 10, 2]
    assert ticks(axes.yaxis) == ["top-1", "IoU"]
    assert legend(figure) == ["tail", "residual"]
    assert axes.get_xlabel() == "percentage points from FishNet"


def test_sizes_have_a_line_for_each_width():
    frame = pd.DataFrame(
        {"width": [0.25, 0.25, 0.5], "blocks": [1, 2, 1], "top1": [0.2, 0.25, 0.3],
         "parameters": [1e6, 2e6, 3e6], "seconds": [50, 90, 120]}
    )  # fmt: skip
    left, right = experiment_charts.plot_sizes(frame).axes
    assert [line.get_label() for line in right.lines] == ["0.25", "0.5"]
    assert list(left.lines[0].get_xdata()) == [1, 2]
    assert list(right.lines[0].get_ydata()) == [20, 25]
    assert texts(left) == ["1", "2", "1"]


def images(count, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_a_grid_leaves_places_empty_and_shortens_titles():
    first, second = images(2)
    _, panels = grids.image_grid(
        [first, None, second], 2, titles=["a", "", "x" * 200], colors=["C1", "black", "C2"],
        row_labels=["one", "two"],
    )  # fmt: skip
    np.testing.assert_array_equal(panels[0].images[0].get_array(), first)
    np.testing.assert_array_equal(panels[2].images[0].get_array(), second)
    assert [axes.axison for axes in panels] == [True, False, True]
    assert panels[0].get_title() == "a"
    assert panels[2].get_title().endswith("x…")
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
    figure = grids.plot_grad_cam(images(2), maps, ["cat", "dog"])
    axes = np.array(figure.axes).reshape(3, 2)
    assert [a.get_ylabel() for a in axes[:, 0]] == ["image", "tail_1\n4×4", "head_1\n1×1"]
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
    assert legend(figure) == ["true", "predicted"]


def test_masks_have_a_color_for_each_class():
    masks = np.arange(4).reshape(1, 2, 2)
    figure = grids.plot_masks(images(1, 2), masks, {"FishNet": masks[:, ::-1]})
    image, mask, predicted = (axes.images[0].get_array() for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["image", "mask", "FishNet"]
    assert len({tuple(pixel) for pixel in mask.reshape(-1, 3)}) == 4
    assert tuple(mask[0, 0]) == (224, 224, 224)  # the background
    np.testing.assert_array_equal(predicted, mask[::-1])
