"""Figures that show images."""

import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from PIL import Image

from utils.analysis.predictions import short_name
from utils.figures.style import PALETTE, WIDTH

TRUE, FOUND = "C2", "C3"  # colors of boxes


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


def plot_predictions(predictions, rows=4, columns=6):
    """Images with what the network called them: green frame when right, orange when wrong.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
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
        predictions: as `utils.training.predictions.load_predictions` returns them.
        groups: as `utils.training.predictions.confused_images` returns it.

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
