"""The charts of `04_analysis`: over all runs, or of one of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utils.analysis.predictions import expected_calibration_error
from utils.figures.style import PALETTE, SMALL, WIDTH, colors_of, percent
from utils.training.results import TITLES


def plot_size(table: pd.DataFrame, course: pd.DataFrame, literature: pd.DataFrame) -> Figure:
    """Val top-1 against parameters: our runs, the course report's and published networks.

    Networks of one name are joined by a line, which has the name at its upper end. Each point of
    ours says its epochs.

    Args:
        table: as `utils.analysis.tables.results_table` returns it; of several runs of a preset
            and a recipe, the longest is shown.
        course: `utils.analysis.published.COURSE_REPORT`.
        literature: `utils.analysis.published.LITERATURE`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    ours, theirs, others = sns.color_palette(PALETTE)[:3]
    mine = table.sort_values("epochs").drop_duplicates(["preset", "recipe"], keep="last")
    mine = mine.rename(columns={"val top-1": "top1", "preset": "name"})
    course = course.rename(columns={"val_top1": "top1"}).reset_index(names="name")
    groups = [
        ("this project, tuned", mine[mine["recipe"] == "tuned"], ours, "o", True),
        (
            "this project, the course report's recipe",
            mine[mine["recipe"] == "course"],
            ours,
            "o",
            False,
        ),
        ("course report, 30 epochs", course, theirs, "s", True),
        ("published, 25 to 100 epochs", literature, others, "^", True),
    ]
    for label, points, color, marker, filled in groups:
        axes.scatter(
            points["parameters"],
            points["top1"],
            s=26 if filled else 80,
            marker=marker,
            label=label,
            edgecolor=color,
            facecolor=color if filled else "none",
            zorder=2,
        )
    for x, top1, epochs in mine[["parameters", "top1", "epochs"]].itertuples(index=False):
        axes.annotate(
            f"{epochs} ep.", (x, top1), (7, -3), textcoords="offset points", fontsize=SMALL
        )
    shown = pd.concat([points for _, points, *_ in groups])
    shown["name"] = shown["name"].replace("resnet_report", "course report's ResNet")
    for name, points in shown.groupby("name", sort=False):
        x, top = points["parameters"].mean(), points["top1"].max()
        axes.vlines(x, points["top1"].min(), top, color="0.5", lw=0.8, zorder=1)
        axes.annotate(
            name, (x, top), (0, 6), textcoords="offset points", ha="center", fontsize=SMALL
        )
    axes.set(xscale="log", ylim=(0, 0.8), xlabel="trainable parameters", ylabel="val top-1")
    axes.margins(x=0.1)
    percent(axes.yaxis)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=SMALL
    )
    return figure


def plot_imagenet(published: pd.DataFrame) -> Figure:
    """Top-1 error on ImageNet-1k against parameters, as published.

    As figure 4 of the paper, but its rivals there are re-implementations by its authors.

    Args:
        published: `utils.analysis.published.IMAGENET`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 2.7))
    colors = colors_of(published["family"])
    for family, rows in published.groupby("family", sort=False):
        axes.plot(
            rows["parameters"], 1 - rows["top1"], "o-", ms=4, color=colors[family], label=family
        )
        for name, x, y in rows[["name", "parameters", "top1"]].itertuples(index=False):
            axes.annotate(name, (x, 1 - y), (4, 4), textcoords="offset points", fontsize=SMALL)
    percent(axes.yaxis)
    axes.margins(0.12)
    axes.set(xlabel="parameters, millions", ylabel="top-1 error on ImageNet-1k")
    axes.legend()
    return figure


def plot_gap(table: pd.DataFrame) -> Figure:
    """Train and val top-1 of each run, joined by a line: its length is the generalization gap.

    Train is evaluated as val is where a run has that; older ones have the mean of the last epoch.

    Args:
        table: as `utils.analysis.tables.results_table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.28 * len(table) + 1.0))
    val, train = sns.color_palette(PALETTE)[:2]
    on_train = table["clean train top-1"].fillna(table["train top-1"])
    axes.hlines(table["run"], on_train, table["val top-1"], color="0.6", zorder=1)
    for top1, color, label in ((on_train, train, "train"), (table["val top-1"], val, "val")):
        axes.scatter(top1, table["run"], color=color, label=label, zorder=2)
    axes.set(xlabel="top-1", ylim=(-0.6, len(table) - 0.4))
    percent(axes.xaxis)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    return figure


def plot_curves(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and top-1 by epoch, training dashed and evaluation solid; a row for each recipe.

    A preset has one color in all rows; of several runs of one, shorter ones are paler.

    Args:
        results: as in `utils.training.results`; without a top-1, as in segmentation, the IoU is
            shown.

    Returns:
        The matplotlib `Figure`.
    """
    recipes = list(dict.fromkeys(result["recipe"] for result in results))
    figure, rows = plt.subplots(
        len(recipes), 2, figsize=(WIDTH, 2.1 * len(recipes) + 0.5), squeeze=False
    )
    shown = "top1" if "top1" in results[0]["history"] else "iou"
    colors = colors_of(result["preset"] for result in results)
    for recipe, (left, right) in zip(recipes, rows, strict=True):
        runs = [result for result in results if result["recipe"] == recipe]
        for result in runs:
            history, preset = result["history"], result["preset"]
            longest = max(len(r["history"]["loss"]) for r in runs if r["preset"] == preset)
            count = len(history["loss"])
            style = {"color": colors[preset], "alpha": 1 if count == longest else 0.5}
            for axes, name in ((left, "loss"), (right, shown)):
                axes.plot(range(1, count + 1), history[name], "--", **style)
                evaluated = pd.Series(history[f"val_{name}"], range(1, count + 1), float).dropna()
                axes.plot(evaluated.index, evaluated, "o-", ms=2.5, **style)
            right.plot([], [], label=f"{preset}, {count} epochs", **style)
        left.set(title=f"{recipe}: cross-entropy", ylabel="loss", ylim=(0, None))
        right.set(title=f"{recipe}: accuracy", ylabel=TITLES[shown], ylim=(0, None))
        right.legend(fontsize=SMALL, loc="lower right", frameon=True)
        percent(right.yaxis)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
    splits = " or ".join(dict.fromkeys(result["metrics"]["split"] for result in results))
    handles = [plt.Line2D([], [], color="0.3", linestyle=style) for style in ("--", "-")]
    figure.legend(handles, ["train", splits], loc="outside lower center", ncols=2)
    return figure


def plot_reliability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against confidence; a calibrated network is on the diagonal.

    Args:
        tables: dict of run: what `utils.analysis.predictions.calibration` returns.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(0.8 * WIDTH, 2.8))
    axes.plot([0, 1], [0, 1], color="0.6", ls=":", lw=1)
    colors = colors_of(tables)
    for run, table in tables.items():
        label = f"{run.removesuffix('-seed0')}: ECE {expected_calibration_error(table):.1%}"
        axes.plot(
            table["confidence"], table["accuracy"], "o-", ms=3, color=colors[run], label=label
        )
    axes.set(xlabel="confidence", ylabel="accuracy", aspect="equal")
    percent(axes.xaxis, axes.yaxis)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=SMALL)
    return figure


def plot_per_class(accuracy: pd.Series, count: int = 10) -> Figure:
    """The best and the worst classes.

    Args:
        accuracy: as `utils.analysis.predictions.per_class_accuracy` returns it.
        count: classes at each end.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 0.22 * count + 0.8), sharex=True)
    parts = (("Worst classes", accuracy.head(count)[::-1]), ("Best classes", accuracy.tail(count)))
    colors = sns.color_palette(PALETTE)[1::-1]
    for axes, (title, part), color in zip(panels, parts, colors, strict=True):
        axes.barh(part.index, part.values, color=color)
        axes.axvline(accuracy.mean(), color="0.3", lw=1, ls=":")
        axes.set(title=title, xlabel="top-1 (dotted: mean)", xlim=(0, 1))
        percent(axes.xaxis)
        axes.grid(visible=False, axis="y")
    return figure


def plot_confused(pairs: pd.DataFrame) -> Figure:
    """The most confused pairs of classes, both directions.

    Args:
        pairs: as `utils.analysis.predictions.confused_pairs` returns them.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.22 * len(pairs) + 0.9))
    pairs = pairs[::-1]
    names = pairs["class a"] + " (a) – " + pairs["class b"] + " (b)"
    left = 0
    for column, color in zip(
        ("a predicted as b", "b predicted as a"), sns.color_palette(PALETTE), strict=False
    ):
        axes.barh(names, pairs[column], left=left, color=color, label=column)
        left = left + pairs[column]
    axes.set(xlabel="images", title="Most confused pairs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    return figure


def plot_gradient_norms(norms: Mapping[str, Mapping[str, float]]) -> Figure:
    """Gradient of each part of a network relative to its weights, shallow to deep.

    Args:
        norms: dict of title: what `utils.analysis.gradients.gradient_norms` returns.

    Returns:
        The matplotlib `Figure`.
    """
    rows = math.ceil(len(norms) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(WIDTH, 1.9 * rows), sharey=True, squeeze=False)
    for axes in panels.flat[len(norms) :]:
        axes.set_axis_off()
    for axes, (title, by_part) in zip(panels.flat, norms.items(), strict=False):
        axes.bar(by_part.keys(), by_part.values(), color="C0")
        axes.set(title=title, yscale="log")
        axes.tick_params(axis="x", rotation=90, labelsize=SMALL)
        axes.grid(visible=False, axis="x")
    figure.supylabel("norm of gradient / norm of weights", fontsize=9)
    return figure
