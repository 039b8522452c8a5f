"""All figures in one style: legible in print at column width, and for the colour-blind."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from PIL import Image

from utils.analysis.predictions import short_name
from utils.training.tasks import TITLES

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
    """Loss and top-1 by epoch, training dashed and evaluation solid; a row for each recipe.

    Args:
        results: list of results (see `utils.training.results`); without a top-1, as in segmentation, the IoU
            is shown.

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
        height, width = show(axes, jpeg)
        axes.set_title(shorten(short_name(words)), fontsize=6, fontweight="normal", pad=2)
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


def show(axes, jpeg):
    """Draws an image without ticks; returns its height and width in pixels."""
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    return image.shape[:2]


def shorten(name, length=16):
    """A class name, cut off where it is too long for a small image's title."""
    return name if len(name) <= length else name[: length - 1] + "…"
