"""The figures of `04_analysis`, over all runs or of one of them."""

import math

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, ScalarFormatter

from utils.analysis.predictions import expected_calibration_error, short_name
from utils.figures.style import PALETTE, WIDTH, shorten, show


def plot_size(table, report, literature):
    """Val top-1 against parameters and against MACs: our runs, the report's and published networks.

    Args:
        table: as `utils.training.results.results_table` returns it; of several runs of a preset and a
            recipe, the longest is shown.
        report: `utils.training.results.REPORT`; its MACs are not known.
        literature: `utils.training.results.LITERATURE`.

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
    groups += [(mine[mine["recipe"] == "report"], ours, "o", "white", "the report's recipe, here")]
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
        published: `utils.training.results.IMAGENET`.

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
        table: as `utils.training.results.results_table` returns it.

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
    axes.barh(names, pairs["a called b"], color=first, label="a called b")
    axes.barh(
        names, pairs["b called a"], left=pairs["a called b"], color=second, label="b called a"
    )
    axes.set(xlabel="images", title="Most confused pairs")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")
    return figure


def plot_predictions(predictions, rows=4, columns=6):
    """Images with what the network called them: green frame when right, orange when wrong.

    Args:
        predictions: as `utils.training.results.load_predictions` returns them.
        rows: rows of images.
        columns: images a row.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH, 1.32 * rows))
    names = [short_name(w) for w in predictions["words"]]
    kept = zip(predictions["sample"], predictions["jpeg"], strict=True)
    right_color, wrong_color = sns.color_palette(PALETTE)[2], sns.color_palette(PALETTE)[3]
    for axes, (index, jpeg) in zip(panels.flat, kept, strict=False):
        label, called = predictions["labels"][index], predictions["classes"][index, 0]
        probability = predictions["probabilities"][index, 0]
        right = label == called
        show(axes, jpeg)
        axes.set_title(
            f"{shorten(names[called])} {probability:.0%}"
            + ("" if right else f"\nis {shorten(names[label])}"),
            fontsize=6,
            fontweight="normal",
            color="black" if right else wrong_color,
        )
        for spine in axes.spines.values():
            spine.set(visible=True, color=right_color if right else wrong_color, linewidth=2)
    return figure


def plot_confused_images(predictions, groups):
    """Images that were taken for the other class of a pair, a row for each pair.

    Args:
        predictions: as `utils.training.results.load_predictions` returns them.
        groups: as `utils.analysis.predictions.confused_images` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    names = [short_name(w) for w in predictions["words"]]
    kept = dict(zip(predictions["sample"].tolist(), predictions["jpeg"], strict=True))
    columns = max(len(group) for group in groups)
    figure, panels = plt.subplots(
        len(groups), columns, figsize=(WIDTH, 1.25 * len(groups)), squeeze=False
    )
    for row, group in zip(panels, groups, strict=True):
        for axes in row[len(group) :]:
            axes.axis("off")
        for axes, index in zip(row, group, strict=False):
            show(axes, kept[index])
            label, called = predictions["labels"][index], predictions["classes"][index, 0]
            axes.set_title(
                f"{shorten(names[label])}\ncalled {shorten(names[called])}",
                fontsize=6,
                fontweight="normal",
            )
    return figure


def plot_grad_cam(images, maps, titles):
    """Images, and beside each where the layers find what speaks for its class.

    Args:
        images: uint8 (n, height, width, 3).
        maps: as `utils.analysis.gradients.grad_cam` returns them.
        titles: n titles.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(
        1 + len(maps), len(images), figsize=(WIDTH, 0.95 * (1 + len(maps)) + 0.2), squeeze=False
    )
    height, width = images.shape[1:3]
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for axes, image, title in zip(panels[0], images, titles, strict=True):
        axes.imshow(image)
        axes.set_title(shorten(title), fontsize=6, fontweight="normal")
    for row, (layer, cams) in zip(panels[1:], maps.items(), strict=True):
        row[0].set_ylabel(f"{layer}\n{cams.shape[1]}×{cams.shape[2]}", fontsize=7)
        for axes, image, cam in zip(row, images, cams, strict=True):
            axes.imshow(image.mean(axis=-1), cmap="gray", alpha=0.5)
            axes.imshow(
                cam,
                cmap="inferno",
                alpha=0.55,
                vmin=0,
                vmax=1,
                extent=(0, width, height, 0),
                interpolation="bicubic",
            )
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
        table: as `utils.experiments.ablations.table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.28 * len(table) + 0.8), sharey=True, width_ratios=(3, 2)
    )
    table = table[::-1]
    noise = table["uncertainty"].iloc[0]
    left.axvspan(-noise, noise, color="0.88", label="noise between seeds")
    left.barh(table["changed"], table["points"], xerr=table["uncertainty"], color="C0")
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
