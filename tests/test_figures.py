"""What the figures show; how they look is for people to judge."""

import base64
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from utils.analysis.published import COURSE_REPORT, IMAGENET, LITERATURE
from utils.figures import charts, diagrams, experiment_charts, grids, style


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


def test_a_saved_figure_is_shown_at_the_size_of_others_in_a_notebook(tmp_path):
    figure = plt.figure(figsize=(3, 2))
    with plt.rc_context({"savefig.bbox": None}):
        style.save_figure(figure, "a", tmp_path)
    shown, metadata = style.show_saved("a", "nothing", tmp_path)._repr_mimebundle_()
    assert metadata["image/jpeg"]["alt"] == "nothing"
    with Image.open(io.BytesIO(base64.b64decode(shown["image/jpeg"]))) as image:
        assert (image.format, image.size) == ("JPEG", (330, 220))


def test_committed_figures_are_small_and_as_pdf_where_the_report_has_them():
    sizes = {path.name: path.stat().st_size for path in Path("figures").iterdir()}
    assert max(sizes.values()) < 400_000
    assert sum(sizes.values()) < 4_000_000
    assert {name for name in sizes if name.endswith(".pdf")} == {
        f"{name}.pdf" for name in charts_of_the_report()
    }


@pytest.mark.parametrize("path", sorted(Path("figures").glob("*.pdf")), ids=lambda path: path.stem)
def test_the_smallest_text_of_a_chart_is_7_points_in_the_report(path):
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", path.read_bytes())[1])
    text_width = (21 - 2 * 2.5) / 2.54 * 72  # of report/parts/style.typ
    assert style.SMALL * text_width / width >= 7


def charts_of_the_report():
    sources = "".join(path.read_text() for path in Path("report/parts").glob("*.typ"))
    return re.findall(r'drawn\("([\w-]+)\.pdf"', sources)


def test_the_notebooks_write_the_pdfs_that_the_report_shows():
    cells = "".join(path.read_text() for path in Path("notebooks").glob("*.ipynb"))
    written = re.findall(r'save_figure\(figure, \\"([\w-]+)\\", figures_dir, vector=True\)', cells)
    assert sorted(written) == sorted(charts_of_the_report())


@pytest.mark.parametrize("count", [3, 10, 11, 25])
def test_all_names_have_colors_of_their_own(count):
    colors = style.colors_of([*map(str, range(count)), "0"])
    assert list(colors) == [*map(str, range(count))]
    assert len(set(colors.values())) == count


def test_a_network_has_one_color_in_every_figure():
    alone = style.colors_of(["complex"])["complex"]
    assert style.colors_of(["a", "simple", "complex"])["complex"] == alone
    assert list(style.colors_of(["a", "simple"])) == ["a", "simple"]
    presets = ("simple", "medium", "complex", "residual", "resnet_report", "U-Net")
    assert len(set(style.colors_of(presets).values())) == len(presets)
    assert style.label_of("residual", ("silu",)) == "residual network, silu"
    assert style.label_of("simple", ("SiLU", "a", "b")) == "simple, SiLU, …"


def result(preset, epochs, recipe="tuned", **changes):
    history = {name: [0.5] * epochs for name in ("loss", "val_loss", "top1", "val_top1")}
    metrics = {"split": "val"}
    names = {"preset": preset, "recipe": recipe, "run_id": f"{preset}-{recipe}-{epochs}ep-seed0"}
    return {**names, "history": history, "metrics": metrics, "config": {}, **changes}


def test_curves_show_every_run_in_the_color_of_its_preset():
    results = [result(f"preset {i}", 4) for i in range(11)]
    results += [result("preset 3", 2), result("preset 3", 4, recipe="course")]
    figure = charts.plot_curves(results)
    (_, tuned), (_, short), (_, course) = (row.axes for row in figure.subfigs)
    titles = [axes.get_title() for axes in (tuned, short, course)]
    assert titles == [f"{name}: accuracy" for name in (
        "tuned, 4 epochs", "tuned, 2 epochs", "course, 4 epochs")]  # fmt: skip
    assert len(tuned.lines) == 2 * 11
    assert len({line.get_color() for line in tuned.lines}) == 11
    color = tuned.lines[6].get_color()
    assert {line.get_color() for line in [*short.lines, *course.lines]} == {color}
    assert [line.get_linestyle() for line in course.lines] == ["--", "-"]
    assert legend(figure.subfigs[0]) == [f"preset {i}" for i in range(11)]
    assert legend(figure) == ["training set", "validation set"]


def test_curves_name_what_is_changed_and_are_means_over_seeds():
    configs: list[dict] = [{}, {}, {"activation": "silu"}]
    results = [result("simple", 4, "course", config=c) for c in configs]
    results[0]["history"]["val_top1"] = [0.1, None, 0.3, 0.4]
    results[1]["history"]["val_top1"] = [0.3, None, 0.3, 0.5]
    figure = charts.plot_curves(results)
    (row,) = figure.subfigs
    assert legend(row) == ["simple", "simple, SiLU"]
    right = row.axes[1]
    plain, variant = (np.array(right.lines[i].get_color()) for i in (0, 2))
    np.testing.assert_allclose(variant, plain / 2)
    assert right.lines[2].get_color() == right.lines[3].get_color()
    assert [line.get_marker() for line in right.lines[1::2]] == ["o", "s"]
    np.testing.assert_allclose(right.lines[1].get_xydata(), [[1, 0.2], [3, 0.3], [4, 0.45]])


@pytest.mark.parametrize("preset", ["simple", "residual_macs"])
def test_curves_of_a_changed_network_are_darker_only_beside_those_of_the_network_as_it_is(preset):
    color = np.array(style.colors_of([preset])[preset])
    changed = {"config": {"activation": "silu"}}
    for others, share in ([result(preset, 4)], 0.5), ([result(preset, 3)], 1), ([], 1):
        figure = charts.plot_curves([result(preset, 4, **changed), *others])
        line = figure.subfigs[0].axes[1].lines[0]
        np.testing.assert_allclose(line.get_color(), share * color)


def test_versions_of_a_recipe_have_one_panel_of_calibration():
    runs = [result("simple", 4), result("simple", 3, "tuned-v1"), result("simple", 4, "paper-long")]
    frame = pd.DataFrame({"confidence": [0.5], "accuracy": [0.5], "images": [1]})
    panels = charts.plot_reliability([(run, frame) for run in runs]).axes
    assert [axes.get_title() for axes in panels] == ["recipe tuned", "recipe paper-long"]


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
def rows():
    """A short and a long run of `simple`, a variant of it, and one with the recipe `course`."""
    rows = [("tuned", 20, (), 0.46), ("tuned", 20, ("silu",), 0.47)]
    rows += [("tuned-v1", 8, (), 0.48), ("course", 8, (), 0.25)]
    frame = pd.DataFrame(rows, columns=["recipe", "epochs", "changes", "validation top-1"])
    frame["preset"] = "simple"
    return frame.assign(**{"training top-1": [0.5, 0.6, 0.55, 0.35], "error": 0.01}).assign(
        parameters=654_200
    )


def test_size_shows_all_runs_of_thirty_epochs_and_the_longest_where_there_is_none(rows):
    long = rows[:2].assign(epochs=[30, 100], **{"validation top-1": [0.52, 0.6]})
    for more, tuned, notes in (
        (rows[:0], [0.47], ["8 ep.", "20 ep."]),
        (long, [0.52, 0.6], ["8 ep.", "100 ep."]),
    ):
        figure = charts.plot_size(pd.concat([rows, more]), COURSE_REPORT, LITERATURE)
        (axes,) = figure.axes
        course, *drawn = [container.lines[0] for container in axes.containers]
        ours, theirs = drawn[:-4], drawn[-4:]
        assert course.get_xydata().tolist() == [[654_200, 0.25]]
        assert [line.get_xydata().tolist() for line in ours] == [[[654_200, y]] for y in tuned]
        assert course.get_markerfacecolor() == "white"
        assert [line.get_ydata()[0] for line in theirs] == list(COURSE_REPORT["val_top1"])
        assert {line.get_color() for line in (course, *ours, theirs[0])} == {course.get_color()}
        others = [f"{row.name}, {row.epochs} ep." for row in LITERATURE.itertuples()]
        assert texts(axes) == [*notes, *others]
    names = ["simple", "medium", "complex", "course report's ResNet"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert {"1 M", "10 M"} <= set(ticks(axes.xaxis))


def test_imagenet_shows_errors_by_family():
    parameters, macs = charts.plot_imagenet(IMAGENET).axes
    assert [line.get_label() for line in parameters.lines] == ["FishNet", "ResNet", "DenseNet"]
    assert list(parameters.lines[0].get_ydata()) == pytest.approx([0.2259, 0.2186, 0.2124])
    assert list(macs.lines[0].get_xdata()) == [4.31, 6.45, 10.58]
    assert texts(parameters) == texts(macs) == list(IMAGENET["name"])


def test_gap_shows_train_and_val_of_each_row(rows):
    (axes,) = charts.plot_gap(rows.assign(clean=[True, False, False, True])).axes
    _, clean, running, val = (part.get_offsets()[:, 0] for part in axes.collections)
    assert (list(clean), list(running)) == ([0.5, 0.35], [0.6, 0.55])
    assert list(val) == [0.46, 0.47, 0.48, 0.25]
    assert ticks(axes.yaxis)[1] == "simple, silu, tuned, 20 epochs"


def test_networks_whose_names_are_cut_to_the_same_stay_apart(rows):
    changes = [("stem of stride 2", "SiLU", "A"), ("stem of stride 2", "SiLU", "B")]
    rows = rows[:2].assign(preset="complex", changes=changes, recipe="tuned", epochs=30, clean=True)
    (axes,) = charts.plot_gap(rows).axes
    assert list(axes.collections[-1].get_offsets()[:, 1]) == [0, 1]
    assert ticks(axes.yaxis) == ["complex, stem of stride 2, …, tuned, 30 epochs"] * 2


def test_reliability_has_a_panel_a_recipe_and_each_error():
    frame = pd.DataFrame({"confidence": [0.2, 0.8], "accuracy": [0.3, 0.8], "images": [20, 20]})
    runs = [result("simple", 4), result("complex", 4), result("simple", 2, "course")]
    figure = charts.plot_reliability([(run, frame) for run in runs])
    tuned, course = figure.axes
    assert len(legend(figure)) == 3
    zero, *lines = tuned.lines
    assert list(zero.get_ydata()) == [0, 0]
    assert (len(lines), len(course.lines)) == (2, 2)
    assert list(lines[0].get_ydata()) == pytest.approx([10, 0])  # points
    assert lines[0].get_label() == "simple, tuned, 4 epochs: 5.0%"
    assert lines[0].get_color() == course.lines[1].get_color() != lines[1].get_color()


def test_reliability_tells_seeds_apart_and_leaves_out_bins_of_few_images():
    frame = pd.DataFrame({"confidence": [0.2, 0.8], "accuracy": [0.3, 0.8], "images": [19, 20]})
    runs = [result("simple", 4, seed=seed) for seed in (0, 1)]
    (axes,) = charts.plot_reliability([(run, frame) for run in runs]).axes
    _, *lines = axes.lines
    assert [line.get_label().partition(":")[0] for line in lines] == [
        "simple, tuned, 4 epochs, seed 0", "simple, tuned, 4 epochs, seed 1",
    ]  # fmt: skip
    assert [list(line.get_xdata()) for line in lines] == [[0.8], [0.8]]
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


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
    networks = (("simple", "untrained"), ("simple", "trained"), ("residual", "trained"))
    norms = {network: {"stem": 0.1, "logits": 2.0} for network in networks}
    *panels, empty = charts.plot_gradient_norms(norms).axes
    titles = ["simple, untrained", "simple, trained", "residual network, trained"]
    assert [axes.get_title() for axes in panels] == titles
    first, second, third = (axes.lines[0].get_color() for axes in panels)
    assert first == second != third
    assert {"0.1", "1"} <= set(ticks(panels[0].yaxis))
    assert list(panels[0].lines[0].get_ydata()) == [0.1, 2.0]
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
    assert legend(figure) == ["uncertainty between seeds", "training set", "hold-out"]


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
        assert set(SPACES[study][study]) <= style.WORDS.keys()


def test_comparison_shows_all_networks_but_the_first():
    frame = pd.DataFrame(
        {"top1 difference": [0, -10, 10], "top1 by seed": [[0, 0], [-12, -8], [9, 11]],
         "iou difference": [0, 1, 2], "iou by seed": [[0, 0], [0, 2], [1, 3]]},
        index=["FishNet", "tail", "residual"],
    )  # fmt: skip
    figure = experiment_charts.plot_comparison({"region": frame})
    (axes,) = figure.axes
    assert bars(axes) == [-10, 1, 10, 2]
    seeds = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert seeds == [[-12, -8], [0, 2], [9, 11], [1, 3]]
    assert ticks(axes.yaxis) == ["top-1", "IoU"]
    assert legend(figure) == ["tail", "residual"]
    assert axes.get_xlabel() == "percentage points from FishNet"


def test_sizes_have_a_line_for_each_width():
    frame = pd.DataFrame(
        {"width": [0.25, 0.25, 0.5], "blocks": [1, 2, 1], "top1": [0.2, 0.25, 0.3],
         "parameters": [1e6, 2e6, 3e6], "macs": [5e7, 9e7, 1.2e8]}
    )  # fmt: skip
    left, right = experiment_charts.plot_sizes(frame).axes
    assert [line.get_label() for line in right.lines] == ["1/4", "1/2"]
    assert list(right.lines[0].get_xdata()) == [50, 90]
    assert list(left.lines[0].get_xdata()) == [1, 2]
    assert list(right.lines[0].get_ydata()) == [20, 25]
    assert texts(left) == ["1", "2", "1"]


def test_diagrams_have_no_text_below_the_smallest_size():
    for figure in (diagrams.draw_blocks(), diagrams.draw_flow()):
        (axes,) = figure.axes
        assert min(text.get_fontsize() for text in axes.texts if text.get_text()) >= style.SMALL
    names = [text.get_text() for text in diagrams.draw_blocks().axes[0].texts]
    assert {"bottleneck", "UR block", "DR block", "bridge", "transfer"} <= set(names)


def test_tables_are_shown_in_words():
    table = pd.DataFrame(
        {
            "down_sampling": ["max_pool_3x3", "other"],
            "top1": [0.5, 0.25],
            "n": [1, 2],
            "box": [np.zeros(4), np.ones(4)],
        },
        index=pd.Index(["resnet_report", "simple"], name="train_top1"),
    )
    shown = style.in_words(table)
    assert shown.columns.tolist() == ["down-sampling", "top-1", "n", "box"]
    assert shown.index.tolist() == ["the course report's ResNet", "simple"]
    assert shown.index.name == "training top-1"
    assert shown["down-sampling"].tolist() == ["max-pool 3×3", "other"]
    assert shown["top-1"].tolist() == [0.5, 0.25]
    assert shown["n"].dtype == int
    assert shown["box"].iloc[1].tolist() == [1, 1, 1, 1]
    assert table.columns[0] == "down_sampling"


def test_a_table_of_a_notebook_breaks_no_name_at_a_hyphen():
    table = pd.DataFrame({"top1": [0.5, None], "n": [1, 2]}, index=["simple", "medium"])
    texts = re.compile(r">([^<>\s]+)</t[hd]>")
    shown = style.show_table(table, {"top1": "{:.1%}"}).to_html()
    assert texts.findall(shown) == [
        *("&nbsp;", "top\u20111", "n"),
        *("simple", "50.0%", "1"),
        *("medium", "–", "2"),
    ]
    bare = style.show_table(table, {"top-1": "{:.0%}"}, index=False).to_html()
    assert texts.findall(bare) == ["top\u20111", "n", "50%", "1", "–", "2"]
    short = style.show_table(pd.DataFrame({"rate": [0.5, 30, None]}), index=False).to_html()
    assert texts.findall(short) == ["rate", "0.5", "30", "–"]
    texts_and_names = pd.DataFrame({"recipe": ["tuned-v1"], "network": ["simple, SiLU"]})
    kept = style.show_table(texts_and_names, index=False).to_html()
    assert re.findall(r"td\.(\w+) {\n  white-space: nowrap", kept) == ["col0"]
    named = style.show_table(table[["n"]].rename_axis("down_sampling")).to_html()
    assert texts.findall(named) == ["down\u2011sampling", "n", "simple", "1", "medium", "2"]


def test_a_point_of_a_study_is_named_beside_those_of_others():
    size = {"width": 0.125, "blocks": 2, "changed": "0.125 × 2"}
    both = pd.DataFrame([size, {"changed": "relu"}])
    labels = both.apply(experiment_charts.point_label, axis=1)
    assert labels.tolist() == ["1/8 of the paper's width, blocks per stage: 2", "ReLU"]


def test_error_bars_are_of_the_accuracy():
    rows = {"recipe": "tuned", "epochs": 30, "changes": (), "validation top-1": 0.5, "error": 0.02}
    rows |= {"preset": "simple", "training top-1": 0.6, "parameters": 654_200}
    (axes,) = charts.plot_size(pd.DataFrame([rows]), COURSE_REPORT, LITERATURE).axes
    (bar,) = axes.containers[0].lines[2]
    np.testing.assert_allclose(bar.get_segments()[0], [[654_200, 0.48], [654_200, 0.52]])
