"""The figures of `04_analysis`, over all runs or of one of them."""

import math

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)

from utils.analysis.predictions import expected_calibration_error
from utils.figures.style import PALETTE, WIDTH
from utils.training.results import TITLES


def plot_size(table, report, literature):
    """Val top-1 against parameters and against MACs: our runs, the report's and published networks.

    Args:
        table: as `utils.analysis.tables.results_table` returns it; of several runs of a preset
            and a recipe, the longest is shown.
        report: `utils.analysis.published.COURSE_REPORT`; its MACs are not known.
        literature: `utils.analysis.published.LITERATURE`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    ours, theirs, others = sns.color_palette(PALETTE)[:3]
    mine = table.sort_values("epochs").drop_duplicates(["preset", "recipe"], keep="last")
    mine = mine.rename(columns={"val top-1": "top1", "MACs": "macs", "preset": "name"})
    mine["macs"] /= 1e6
    earlier = report.rename(columns={"val_top1": "top1"}).reset_index(names="name")
    earlier["name"] = earlier["name"].str.removesuffix("_report")
    groups = [(mine[mine["recipe"] == "tuned"], ours, "o", ours, "this project, tuned")]
    groups += [(mine[mine["recipe"] == "course"], ours, "o", "white", "the report's recipe, here")]
    groups += [(earlier, theirs, "s", theirs, "earlier report")]
    groups += [(literature, others, "^", others, "published")]
    for axes, column in zip(panels, ("parameters", "macs"), strict=True):
        for points, color, marker, inside, label in groups:
            if column not in points:
                continue
            axes.scatter(
                points[column], points["top1"], s=26, marker=marker, label=label,
                edgecolor=color, facecolor=inside,
            )  # fmt: skip
            ends = points[column].min(), points[column].max()
            for name, x, y in points[["name", column, "top1"]].itertuples(index=False):
                offset, side = (0, 5), ("center", "bottom")
                if y == points["top1"].min():
                    offset, side = (0, -5), ("center", "top")
                if x == ends[0]:  # beside it, where no other of the group is
                    offset, side = (-5, 0), ("right", "center")
                elif x == ends[1]:
                    offset, side = (5, 0), ("left", "center")
                axes.annotate(
                    name, (x, y), offset, textcoords="offset points",
                    ha=side[0], va=side[1], fontsize=7,
                )  # fmt: skip
        axes.set(xscale="log", ylim=(0, 0.8))
        axes.margins(x=0.35)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].set(xlabel="trainable parameters", ylabel="val top-1")
    panels[1].set(xlabel="million multiply-accumulates an image")
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[1].xaxis.set_major_formatter(ScalarFormatter())
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot_imagenet(published):
    """Top-1 error on ImageNet-1k against parameters, as published: the paper's figure 4.

    Args:
        published: `utils.analysis.published.IMAGENET`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 2.7))
    families = published.groupby("family", sort=False)
    for (family, rows), color in zip(families, sns.color_palette(PALETTE), strict=False):
        axes.plot(rows["parameters"], 1 - rows["top1"], "o-", ms=4, color=color, label=family)
        for name, x, y in rows[["name", "parameters", "top1"]].itertuples(index=False):
            axes.annotate(name, (x, 1 - y), (4, 4), textcoords="offset points", fontsize=7)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(0.12)
    axes.set(xlabel="parameters, millions", ylabel="top-1 error on ImageNet-1k")
    axes.legend()
    return figure


def plot_gap(table):
    """Train and val top-1 of each run, joined by a line: its length is the generalisation gap.

    Args:
        table: as `utils.analysis.tables.results_table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.28 * len(table) + 1.0))
    train, val = sns.color_palette(PALETTE)[1], sns.color_palette(PALETTE)[0]
    axes.hlines(table["run"], table["train top-1"], table["val top-1"], color="0.6", zorder=1)
    axes.scatter(table["train top-1"], table["run"], color=train, label="train", zorder=2)
    axes.scatter(table["val top-1"], table["run"], color=val, label="val", zorder=2)
    axes.set(xlabel="top-1", ylim=(-0.6, len(table) - 0.4))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    return figure


def plot_reliability(tables):
    """How often a network is right against how sure it is; calibrated means on the diagonal.

    Args:
        tables: dict of run: what `utils.analysis.predictions.calibration` returns.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 2.8))
    axes.plot([0, 1], [0, 1], color="0.6", ls=":", lw=1)
    for (run, table), color in zip(tables.items(), sns.color_palette(PALETTE), strict=False):
        error = expected_calibration_error(table)
        label = f"{run}: ECE {error:.1%}"
        axes.plot(table["confidence"], table["accuracy"], "o-", ms=3, color=color, label=label)
    axes.set(xlabel="probability of the first guess", ylabel="share that is right", aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def plot_per_class(accuracy, count=10):
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
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="y")
    return figure


def plot_confused(pairs):
    """The most confused pairs of classes, both directions.

    Args:
        pairs: as `utils.analysis.predictions.confused_pairs` returns them.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.22 * len(pairs) + 0.9))
    pairs = pairs[::-1]
    names = pairs["class a"] + " (a) – " + pairs["class b"] + " (b)"
    first, second = sns.color_palette(PALETTE)[:2]
    axes.barh(names, pairs["a predicted as b"], color=first, label="a predicted as b")
    axes.barh(
        names,
        pairs["b predicted as a"],
        left=pairs["a predicted as b"],
        color=second,
        label="b predicted as a",
    )
    axes.set(xlabel="images", title="Most confused pairs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    return figure


def plot_gradient_norms(norms):
    """Gradient of each part of a network relative to its weights, shallow to deep.

    Args:
        norms: dict of title: what `utils.analysis.gradients.gradient_norms` returns.

    Returns:
        The matplotlib `Figure`.
    """
    rows = math.ceil(len(norms) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(WIDTH, 1.9 * rows), sharey=True)
    for axes in panels.flat[len(norms) :]:
        axes.set_axis_off()
    for axes, (title, by_part) in zip(panels.flat, norms.items(), strict=False):
        axes.bar(by_part.keys(), by_part.values(), color="C0")
        axes.set(title=title, yscale="log")
        axes.tick_params(axis="x", rotation=90, labelsize=7)
        axes.grid(visible=False, axis="x")
    figure.supylabel("norm of gradient / norm of weights", fontsize=9)
    return figure


def plot_ablations(table):
    """What each change costs or gains in points of hold-out top-1, and how it does on train.

    Args:
        table: as `utils.experiments.ablations.ablation_table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.28 * len(table) + 0.8), sharey=True, width_ratios=(3, 2)
    )
    table = table[::-1]
    noise = table["uncertainty"].iloc[0]
    left.axvspan(-noise, noise, color="0.88", label="noise between seeds")
    left.barh(table["changed"], table["difference"], xerr=table["uncertainty"], color="C0")
    left.axvline(0, color="0.3", lw=1)
    left.set(xlabel="points against the default")
    left.legend(loc="lower left")
    right.hlines(table["changed"], 100 * table["top1"], 100 * table["train_top1"], color="0.7")
    for name, color in (("train_top1", "C1"), ("top1", "C0")):
        label = {"train_top1": "train", "top1": "hold-out"}[name]
        right.scatter(100 * table[name], table["changed"], color=color, label=label, zorder=3)
    right.set(xlabel="top-1, %")
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


def plot_comparison(tables):
    """How far from the first network the others are, by metric.

    Args:
        tables: dict of title: what `utils.experiments.comparison.comparison_table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, len(tables), figsize=(WIDTH, 2.6), squeeze=False)
    names = dict.fromkeys(name for table in tables.values() for name in table.index[1:])
    colors = dict(zip(names, sns.color_palette(PALETTE), strict=False))
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        metrics = [
            name.removesuffix(" difference") for name in table if name.endswith(" difference")
        ]
        others = table.iloc[1:]
        places = np.arange(len(metrics))
        height = 0.8 / len(others)
        for i, (name, row) in enumerate(others.iterrows()):
            axes.barh(
                places + (i - (len(others) - 1) / 2) * height,
                [row[f"{metric} difference"] for metric in metrics],
                height,
                xerr=[row[f"{metric} error"] for metric in metrics],
                color=colors[name],
            )
        axes.set_yticks(places, [TITLES[metric] for metric in metrics])
        axes.invert_yaxis()
        axes.axvline(0, color="0.3", lw=1)
        axes.grid(visible=False, axis="y")
        axes.set(title=title, xlabel=f"points against {table.index[0]}")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    figure.legend(handles, colors, loc="outside lower center", ncols=len(colors))
    return figure


def plot_variants(tables):
    """What each value of each study gains or loses against the default.

    Args:
        tables: dict of title: what `utils.experiments.search.study_table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    heights = [len(table) for table in tables.values()]
    figure, panels = plt.subplots(
        len(tables),
        1,
        figsize=(WIDTH, 0.3 * sum(heights) + 0.5 * len(tables)),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        noise = table["uncertainty"].iloc[0]
        axes.axvspan(-noise, noise, color="0.88")
        axes.barh(table["changed"], table["difference"], xerr=table["uncertainty"], color="C0")
        axes.axvline(0, color="0.3", lw=1)
        axes.set_title(title, loc="left")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    axes.set(xlabel="points of hold-out top-1, against the default (gray: noise between seeds)")
    return figure


def plot_sizes(table):
    """Top-1 of each width and depth against parameters and against time; the numbers are blocks.

    Args:
        table: as `utils.experiments.search.study_table` returns it for the study `size`, and
            seconds per epoch.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3), sharey=True)
    for axes, x, unit in zip(panels, ("parameters", "seconds"), (1e6, 1), strict=True):
        for width, group in table.groupby("width"):
            axes.plot(group[x] / unit, 100 * group["top1"], marker="o", label=f"{width:g}")
            for row in group.itertuples():
                where = (getattr(row, x) / unit, 100 * row.top1)
                axes.annotate(row.blocks, where, xytext=(4, 4), textcoords="offset points")
        axes.set(xscale="log")
        axes.margins(x=0.1, y=0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set(xlabel="million parameters", ylabel="hold-out top-1, %")
    panels[1].set(xlabel="seconds an epoch")
    panels[1].legend(title="width, times the paper's", loc="lower right")
    return figure


def plot_curves(results):
    """Loss and top-1 by epoch, training dashed and evaluation solid; a row for each recipe.

    Args:
        results: list of results (see `utils.training.results`); without a top-1, as in
            segmentation, the IoU is shown.

    Returns:
        The matplotlib `Figure`.
    """
    recipes = list(dict.fromkeys(result["recipe"] for result in results))
    figure, rows = plt.subplots(
        len(recipes), 2, figsize=(WIDTH, 2.1 * len(recipes) + 0.5), squeeze=False
    )
    shown = "top1" if "top1" in results[0]["history"] else "iou"
    for recipe, (left, right) in zip(recipes, rows, strict=True):
        runs = [result for result in results if result["recipe"] == recipe]
        for color, result in zip(sns.color_palette(PALETTE), runs, strict=False):
            history = result["history"]
            epochs = range(1, len(history["loss"]) + 1)
            for axes, name in ((left, "loss"), (right, shown)):
                axes.plot(epochs, history[name], "--", color=color)
                axes.plot(epochs, history[f"val_{name}"], "o-", ms=2.5, color=color)
            left.plot([], [], color=color, label=f"{result['preset']}, {len(epochs)} epochs")
        left.set(title=f"{recipe}: cross-entropy", ylabel="loss", ylim=(0, None))
        left.legend(fontsize=7, loc="lower left", frameon=True)
        right.set(title=f"{recipe}: accuracy", ylabel=TITLES[shown], ylim=(0, None))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
    splits = " or ".join(dict.fromkeys(result["metrics"]["split"] for result in results))
    handles = [plt.Line2D([], [], color="0.3", linestyle=style) for style in ("--", "-")]
    figure.legend(handles, ["train", splits], loc="outside lower center", ncols=2)
    return figure
