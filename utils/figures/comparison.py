"""The figures of `07_region_and_pixel`."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from utils.figures.style import PALETTE, WIDTH, shorten
from utils.training.tasks import TITLES

TRUE, FOUND = "C2", "C3"  # colours of boxes


def plot_boxes(images, targets, outputs, names, columns=8):
    """Images with the box that is right and the one that was found.

    Args:
        images: uint8 (n, height, width, 3).
        targets: (n, 5), labels and boxes.
        outputs: (n, classes + 4), logits and boxes, as a network for localization gives them.
        names: of the classes.
        columns: images a row.

    Returns:
        The matplotlib `Figure`.
    """
    rows = -(-len(images) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH, 1.05 * rows), squeeze=False)
    for axes in panels.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, target, output in zip(panels.flat, images, targets, outputs, strict=False):
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        called = output[:-4].argmax()
        axes.set_title(
            shorten(names[called]),
            fontsize=6,
            fontweight="normal",
            color="black" if called == int(target[0]) else "C3",
        )
        for box, color in ((target[1:], TRUE), (output[-4:], FOUND)):
            left, top, right, bottom = box.clip(0, 1) * image.shape[0] - 0.5
            frame = (left, top), right - left, bottom - top
            axes.add_patch(Rectangle(*frame, fill=False, color="white", lw=2.4))
            axes.add_patch(Rectangle(*frame, fill=False, color=color, lw=1.2))
    handles = [Rectangle((0, 0), 1, 1, fill=False, color=color, lw=1.2) for color in (TRUE, FOUND)]
    figure.legend(handles, ["right", "found"], loc="outside lower center", ncols=2)
    return figure


def plot_masks(images, masks, found):
    """Images, their masks, and what networks make of them; a colour a class, background gray.

    Args:
        images: uint8 (n, height, width, 3).
        masks: int (n, height, width), 0 for background.
        found: dict of title: masks of the same shape.

    Returns:
        The matplotlib `Figure`.
    """
    rows = {"image": images, "mask": masks, **found}
    figure, panels = plt.subplots(
        len(rows), len(images), figsize=(WIDTH, 0.82 * len(rows)), squeeze=False
    )
    classes = int(max(masks.max(), *(said.max() for said in found.values()))) + 1
    colors = ListedColormap(["0.88", *sns.color_palette("husl", classes - 1)])
    for row, (title, pictures) in zip(panels, rows.items(), strict=True):
        row[0].set_ylabel(title, fontsize=7)
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture, cmap=colors, vmin=0, vmax=classes - 1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    return figure


def plot_comparison(tables):
    """How far from the first network the others are, by metric.

    Args:
        tables: dict of title: what `utils.experiments.comparison.table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, len(tables), figsize=(WIDTH, 2.6), squeeze=False)
    names = dict.fromkeys(name for table in tables.values() for name in table.index[1:])
    colors = dict(zip(names, sns.color_palette(PALETTE), strict=False))
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        metrics = [name.removesuffix(" apart") for name in table if name.endswith(" apart")]
        others = table.iloc[1:]
        places = np.arange(len(metrics))
        height = 0.8 / len(others)
        for i, (name, row) in enumerate(others.iterrows()):
            axes.barh(
                places + (i - (len(others) - 1) / 2) * height,
                [row[f"{metric} apart"] for metric in metrics],
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
