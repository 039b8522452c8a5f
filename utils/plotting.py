"""All figures in one style: legible in print at column width, and for the colour-blind."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from PIL import Image

from utils.analysis import short_name

WIDTH = 6.3  # inches: 16 cm, the text width of an A4 page
PALETTE = "colorblind"


def set_style():
    """Sets the style of every figure that follows."""
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.labelsize": 9,
            "legend.frameon": False,
            "pdf.fonttype": 42,
        }
    )


def save_figure(figure, name, folder="figures"):
    """Writes a figure as PNG and PDF.

    Args:
        figure: the matplotlib `Figure`.
        name: file name without ending.
        folder: where to; made when missing.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png")
    figure.savefig(Path(folder) / f"{name}.pdf", metadata={"CreationDate": None})


def plot_curves(results):
    """Loss and top-1 by epoch, training dashed and evaluation solid.

    Args:
        results: list of results (see `utils.results`).

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    for color, result in zip(sns.color_palette(PALETTE), results, strict=False):
        history = result["history"]
        epochs = range(1, len(history["loss"]) + 1)
        label = f"{result['preset']}, {result['recipe']}"
        split = result["metrics"]["split"]
        for axes, name in ((left, "loss"), (right, "top1")):
            axes.plot(epochs, history[name], "--", color=color, label=f"{label}: train")
            axes.plot(
                epochs, history[f"val_{name}"], "o-", ms=3, color=color, label=f"{label}: {split}"
            )
    left.set(title="Cross-entropy", xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.set(title="Accuracy", xlabel="epoch", ylabel="top-1", ylim=(0, None))
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_parameters(table, report):
    """Val top-1 against trainable parameters: our runs and the report's networks.

    Args:
        table: as `utils.results.results_table` returns it.
        report: `utils.results.REPORT`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    ours, theirs = sns.color_palette(PALETTE)[0], sns.color_palette(PALETTE)[1]
    axes.scatter(table["parameters"], table["val top-1"], color=ours, s=36, label="this project")
    axes.scatter(
        report["parameters"], report["val_top1"], color=theirs, s=36, marker="s", label="report"
    )
    for run, x, y in table[["run", "parameters", "val top-1"]].itertuples(index=False):
        axes.annotate(run, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=8)
    for name, x, y in report[["parameters", "val_top1"]].itertuples():
        name = name.removesuffix("_report")
        axes.annotate(name, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xscale="log", xlim=(4e5, 6e7), ylim=(0, 1.12 * table["val top-1"].max()))
    axes.set(xlabel="trainable parameters", ylabel="val top-1")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="upper right")
    return figure


def plot_per_class(accuracy, count=10):
    """The best and the worst classes.

    Args:
        accuracy: as `utils.analysis.per_class_accuracy` returns it.
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
        pairs: as `utils.analysis.confused_pairs` returns them.

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
        predictions: as `utils.results.load_predictions` returns them.
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
        _show(axes, jpeg)
        axes.set_title(
            f"{_shorten(names[called])} {probability:.0%}"
            + ("" if right else f"\nis {_shorten(names[label])}"),
            fontsize=6,
            fontweight="normal",
            color="black" if right else wrong_color,
        )
        for spine in axes.spines.values():
            spine.set(visible=True, color=right_color if right else wrong_color, linewidth=2)
    return figure


def plot_samples(samples, columns=8):
    """A sheet of images with their words and boxes.

    Args:
        samples: list of (JPEG bytes, words, box), the box as (xmin, ymin, xmax, ymax) in [0, 1] or
            None.
        columns: images a row.

    Returns:
        The matplotlib `Figure`.
    """
    rows = -(-len(samples) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH, 1.0 * rows), squeeze=False)
    for axes, (jpeg, words, box) in zip(panels.flat, samples, strict=False):
        height, width = _show(axes, jpeg)
        axes.set_title(_shorten(short_name(words)), fontsize=6, fontweight="normal", pad=2)
        if box is not None:
            left, top, right, bottom = np.array(box) * [width, height, width, height]
            frame = (left - 0.5, top - 0.5), right - left, bottom - top
            axes.add_patch(Rectangle(*frame, fill=False, color="white", lw=2))
            axes.add_patch(Rectangle(*frame, fill=False, color="C3", lw=1))
    return figure


def plot_batch(images, columns=12):
    """Images of a batch as the network sees them.

    Args:
        images: uint8 (batch, height, width, 3).
        columns: images a row.

    Returns:
        The matplotlib `Figure`.
    """
    rows = -(-len(images) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(WIDTH, WIDTH / columns * rows), squeeze=False
    )
    for axes in panels.flat:
        axes.axis("off")
    for axes, image in zip(panels.flat, images, strict=False):
        axes.imshow(image)
    return figure


def _show(axes, jpeg):
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    return image.shape[:2]


def _shorten(name, length=16):
    return name if len(name) <= length else name[: length - 1] + "…"
