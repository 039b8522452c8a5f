"""The charts of `04_analysis`: over all runs, or of one of them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from utils.analysis.predictions import expected_calibration_error
from utils.analysis.published import COURSE_EPOCHS
from utils.analysis.tables import changes_of, network_of
from utils.figures.style import (
    OURS,
    PALETTE,
    PUBLISHED,
    SMALL,
    THEIRS,
    WIDTH,
    colors_of,
    label_of,
    percent,
)
from utils.training.recipes import family_of
from utils.training.results import TITLES

SPLITS = {"val": "validation set", "holdout": "hold-out"}
FEWEST = 20  # images of a bin: one more or less right moves it by 5 points


def plot_size(rows: pd.DataFrame, course: pd.DataFrame, literature: pd.DataFrame) -> Figure:
    """Validation top-1 against parameters: ours, the course report's and published networks.

    The markers say whose a network is and with which recipe, the colors which preset it is; a
    number is the epochs of a run, where they are not the 30 of the course report.

    Args:
        rows: as `utils.analysis.tables.summary` returns them. All of 30 or more epochs are shown;
            of a preset that has none with a recipe, of any version, its longest.
        course: `utils.analysis.published.COURSE_REPORT`.
        literature: `utils.analysis.published.LITERATURE`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.3))
    rows = rows.sort_values(["epochs", "validation top-1"])
    rows["recipe"] = rows["recipe"].map(family_of)
    is_longest = ~rows.duplicated(["preset", "recipe"], keep="last")
    rows = rows[(rows["epochs"] >= COURSE_EPOCHS) | is_longest]
    colors = colors_of([*rows["preset"], *course.index])
    shown = [
        *rows[["preset", "recipe", "epochs", "parameters", "validation top-1", "error"]].itertuples(
            index=False, name=None
        ),
        *(
            (row.Index, "theirs", COURSE_EPOCHS, row.parameters, row.val_top1, 0)
            for row in course.itertuples()
        ),
    ]
    for preset, recipe, epochs, parameters, top1, error in shown:
        color, is_theirs = colors[preset], recipe == "theirs"
        axes.errorbar(
            parameters,
            top1,
            error,
            fmt=THEIRS if is_theirs else OURS,
            color=color,
            ms=7 if is_theirs else 5,  # where both are in one place, both are seen
            zorder=2 if is_theirs else 3,
            mfc="white" if recipe.startswith("course") else color,
        )
        if epochs != COURSE_EPOCHS:
            _note(axes, f"{epochs} ep.", (parameters, top1), (-7, -3), ha="right")
    axes.scatter(literature["parameters"], literature["top1"], marker=PUBLISHED, s=34, color="0.35")
    for row in literature.itertuples():
        shift, side = {
            "fastai ResNet": ((-7, -3), "right"),
            "ConvMixer variant": ((-12, 7), "left"),
        }.get(row.name, ((7, -3), "left"))
        place = (row.parameters, row.top1)
        _note(axes, f"{row.name}, {row.epochs} ep.", place, shift, ha=side)
    axes.set(xscale="log", ylim=(0, 0.8), xlabel="trainable parameters")
    axes.set(ylabel="validation top-1")
    axes.set_xlim(3.5e5, 1.2e8)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M")  # powers are too small to read
    percent(axes.yaxis)
    kinds = {
        "this project, recipe tuned": (OURS, "0.35"),
        "this project, recipe course": (OURS, "white"),
        "course report": (THEIRS, "0.35"),
        "published": (PUBLISHED, "0.35"),
    }
    handles = [
        plt.Line2D([], [], ls="", marker=marker, mec="0.35", mfc=face)
        for marker, face in kinds.values()
    ]
    patches = [Patch(color=color) for color in colors.values()]
    figure.legend(handles, kinds, loc="outside lower center", ncols=4, fontsize=SMALL)
    axes.legend(patches, map(label_of, colors), loc="center right", fontsize=SMALL)
    return figure


def _note(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[int, int], **kw: Any
) -> None:
    axes.annotate(text, at, shift, textcoords="offset points", fontsize=SMALL, **kw)


def plot_imagenet(published: pd.DataFrame) -> Figure:
    """Top-1 error on ImageNet-1k against parameters and MACs, as published.

    As figure 4 of the paper, but its rivals there are re-implementations by its authors.

    Args:
        published: `utils.analysis.published.IMAGENET`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.3), sharey=True)
    colors = colors_of(published["family"])
    for family, rows in published.groupby("family", sort=False):
        for axes, x in zip(panels, ("parameters", "macs"), strict=True):
            axes.plot(rows[x], 1 - rows["top1"], "o-", ms=4, color=colors[family], label=family)
            for row in rows.itertuples():
                left = (family, x) == ("DenseNet", "macs")  # or they meet ResNet-50
                shift = (-5, -3) if left else (-3, -10) if family == "FishNet" else (4, 4)
                place = (getattr(row, x), 1 - row.top1)
                _note(axes, row.name, place, shift, ha="right" if left else "left")
    for axes in panels:
        axes.margins(0.14)
    percent(panels[0].yaxis)
    panels[0].set(xlabel="parameters, millions", ylabel="top-1 error on ImageNet-1k")
    panels[1].set(xlabel="multiply-accumulates per image, billions")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(colors))
    return figure


def plot_gap(rows: pd.DataFrame) -> Figure:
    """Training and validation top-1 of each row; the line between them is the generalization gap.

    Args:
        rows: as `utils.analysis.tables.summary` returns them.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.28 * len(rows) + 1.0))
    names = rows.apply(
        lambda row: (
            f"{label_of(row['preset'], row['changes'])}, {row['recipe']}, {row['epochs']} epochs"
        ),
        axis=1,
    )
    places = np.arange(len(rows))  # names of different networks may be cut to the same
    axes.hlines(places, rows["training top-1"], rows["validation top-1"], color="0.6", zorder=1)
    axes.set_yticks(places, names)
    sets = {
        "training set": ("training top-1", rows["clean"], "black"),
        "training set, mean of the last epoch": ("training top-1", ~rows["clean"], "0.7"),
        "validation set": ("validation top-1", slice(None), "white"),
    }
    for label, (column, shown, face) in sets.items():
        points = rows[column][shown], places[shown]
        axes.scatter(*points, marker=OURS, color=face, ec="black", label=label, zorder=2)
    axes.set(xlabel="top-1", ylim=(len(rows) - 0.4, -0.6))
    percent(axes.xaxis)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=len(sets))
    return figure


def plot_curves(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and top-1 by epoch, training dashed and evaluation solid.

    Runs of one recipe and number of epochs are in one row, so that what is side by side compares;
    runs that differ in their seed are one line, their mean. A preset has one color in all rows;
    each network has a marker of its own, and variants are paler beside the network as it is.

    Args:
        results: as in `utils.training.results`; without a top-1, as in segmentation, the IoU is
            shown.

    Returns:
        The matplotlib `Figure`, with a subfigure for each row.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["recipe"], len(result["history"]["loss"])), []).append(result)
    lines = [math.ceil(len(set(map(network_of, r))) / _columns(r)) for r in groups.values()]
    heights = [
        (2.3 if len(runs) > 3 else 1.9) + 0.16 * count
        for runs, count in zip(groups.values(), lines, strict=True)
    ]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.2))
    rows = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    colors = colors_of(result["preset"] for result in results)
    networks = dict.fromkeys(map(network_of, results))
    markers = dict(zip(networks, itertools.cycle("os^vDPX"), strict=False))
    for row, ((recipe, epochs), runs) in zip(rows, groups.items(), strict=True):
        _draw_curves(row, runs, colors, markers, f"{recipe}, {epochs} epochs")
    splits = [SPLITS[split] for split in dict.fromkeys(r["metrics"]["split"] for r in results)]
    handles = [plt.Line2D([], [], color="0.3", linestyle=style) for style in ("--", "-")]
    labels = ["training set", " or ".join(splits)]
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw_curves(
    row: Any,
    runs: Sequence[Mapping[str, Any]],
    colors: Mapping[str, Any],
    markers: Mapping[str, str],
    title: str,
) -> None:
    """The curves of runs of equal length with one recipe, with a legend below."""
    left, right = row.subplots(1, 2)
    shown = "top1" if "top1" in runs[0]["history"] else "iou"
    networks: dict[str, list[Mapping[str, Any]]] = {}
    for result in runs:
        networks.setdefault(network_of(result), []).append(result)
    for network, seeds in networks.items():
        preset = seeds[0]["preset"]
        is_variant = bool(changes_of(seeds[0])) and label_of(preset) in networks
        color = np.array(to_rgb(colors[preset])) * (0.5 if is_variant else 1)
        style = {"color": tuple(color), "lw": 1}
        for axes, name in ((left, "loss"), (right, shown)):
            axes.plot(_mean_by_epoch(seeds, name), "--", **style)
            evaluated = _mean_by_epoch(seeds, f"val_{name}")
            axes.plot(
                evaluated,
                marker=markers[network],
                ms=3,
                markevery=max(1, len(evaluated) // 10),
                label=_label(seeds[0]),
                **style,
            )
    left.set(title=f"{title}: cross-entropy", ylabel="loss", ylim=(0, None))
    right.set(title=f"{title}: accuracy", ylabel=TITLES[shown], ylim=(0, None))
    percent(right.yaxis)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles = right.get_legend_handles_labels()
    row.legend(*handles, loc="outside lower center", ncols=_columns(runs), fontsize=SMALL)


def _mean_by_epoch(runs: Sequence[Mapping[str, Any]], name: str) -> pd.Series:
    """What the histories of runs have of that name, by epoch from 1; epochs without it left out."""
    values = pd.DataFrame([run["history"][name] for run in runs], dtype=float).mean().dropna()
    return values.set_axis(values.index + 1)


def names_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What figures call runs: network, recipe and epochs, and the seed where these are equal."""
    names = [f"{_label(r)}, {r['recipe']}, {len(r['history']['loss'])} epochs" for r in results]
    return [
        f"{name}, seed {result['seed']}" if names.count(name) > 1 else name
        for name, result in zip(names, results, strict=True)
    ]


def _columns(runs: Sequence[Mapping[str, Any]]) -> int:
    """Columns of a legend of networks: about 105 letters are as wide as the figure."""
    return max(2, 105 // (max(len(_label(run)) for run in runs) + 7))


def _label(result: Mapping[str, Any]) -> str:
    return label_of(result["preset"], changes_of(result))


def plot_reliability(
    tables: Sequence[tuple[Mapping[str, Any], pd.DataFrame]],
) -> Figure:
    """How far accuracy is from confidence; for a calibrated network it is zero.

    All versions of a recipe are in one panel. Bins of fewer than `FEWEST` images are left out.

    Args:
        tables: (result of a run, what `utils.analysis.predictions.calibration` returns for it).

    Returns:
        The matplotlib `Figure`.
    """
    recipes = list(dict.fromkeys(family_of(result["recipe"]) for result, _ in tables))
    figure, panels = plt.subplots(
        1, len(recipes), figsize=(WIDTH, 2.3 + 0.17 * len(tables)), sharey=True, squeeze=False
    )
    colors = colors_of(result["preset"] for result, _ in tables)
    for recipe, axes in zip(recipes, panels.flat, strict=True):
        axes.axhline(0, color="0.3", lw=1)
        axes.set(xlabel="confidence", title=f"recipe {recipe}", xlim=(0, 1))
        percent(axes.xaxis)
    lines: list[Line2D] = []
    names = names_of([result for result, _ in tables])
    for (result, table), name, marker in zip(
        tables, names, itertools.cycle("os^vDPX"), strict=False
    ):
        error = expected_calibration_error(table)
        table = table[table["images"] >= FEWEST]
        color = colors[result["preset"]]
        same = sum(line.get_color() == color for line in lines)
        (line,) = panels[0, recipes.index(family_of(result["recipe"]))].plot(
            table["confidence"],
            100 * (table["accuracy"] - table["confidence"]),
            marker=marker,
            ls=("-", "--", "-.", ":")[same % 4],
            ms=3,
            lw=1,
            color=color,
            label=f"{name}: {error:.1%}",
        )
        lines.append(line)
    figure.legend(
        handles=lines, loc="outside lower center", title="expected calibration error",
        title_fontsize=SMALL, fontsize=SMALL,
    )  # fmt: skip
    panels[0, 0].set_ylabel("accuracy − confidence, points")
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
    figure, axes = plt.subplots(figsize=(WIDTH, 0.17 * len(pairs) + 0.8))
    pairs = pairs[::-1]
    names = pairs["class a"] + " (a) – " + pairs["class b"] + " (b)"
    left = 0
    for column, color in zip(
        ("a predicted as b", "b predicted as a"), sns.color_palette(PALETTE), strict=False
    ):
        axes.barh(names, pairs[column], left=left, color=color, label=column)
        left = left + pairs[column]
    axes.set(xlabel="images")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=SMALL)
    return figure


def plot_gradient_norms(norms: Mapping[tuple[str, str], Mapping[str, float]]) -> Figure:
    """Gradient of each part of a network relative to its weights, shallow to deep.

    Args:
        norms: dict of (preset, state): what `utils.analysis.gradients.gradient_norms` returns.

    Returns:
        The matplotlib `Figure`.
    """
    rows = math.ceil(len(norms) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(WIDTH, 1.7 * rows), sharey=True, squeeze=False)
    colors = colors_of(preset for preset, _ in norms)
    for axes in panels.flat[len(norms) :]:
        axes.set_axis_off()
    for axes, ((preset, state), by_part) in zip(panels.flat, norms.items(), strict=False):
        parts = [part.replace("_", " ") for part in by_part]
        axes.plot(parts, by_part.values(), "o-", color=colors[preset])  # bars would begin anywhere
        axes.set(title=f"{label_of(preset)}, {state}", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="x", rotation=90, labelsize=SMALL)
        axes.grid(visible=False, axis="x")
    figure.supylabel("norm of gradient / norm of weights", fontsize=9)
    return figure
