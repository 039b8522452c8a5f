"""Figures that show images in a grid."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.analysis.predictions import short_name
from utils.figures.style import SMALL, WIDTH
from utils.training.predictions import decode_image

TRUE, PREDICTED = "C2", "C3"  # colors of boxes, and of what is right and wrong


def image_grid(
    images: Sequence[np.ndarray | None],
    columns: int,
    *,
    titles: Sequence[str] = (),
    colors: Sequence[str] = (),
    row_labels: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Draws images without ticks, row by row, over the width of a page.

    Args:
        images: uint8 (height, width, 3); None leaves a place empty.
        columns: images per row.
        titles: of the first images; lines that are too wide are wrapped.
        colors: of the titles; black without.
        row_labels: at the left of the first rows.

    Returns:
        (figure, axes): the matplotlib `Figure` and the `Axes` of each image.
    """
    side = WIDTH / columns
    room = side - 0.35 * bool(row_labels) / columns
    rows, letters = math.ceil(len(images) / columns), int(room * 72 / (0.62 * SMALL))
    wrapped = [
        "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, letters))
        for title in titles
    ]
    of_rows = [wrapped[i : i + columns] for i in range(0, len(wrapped), columns)]
    lines = sum(max(title.count("\n") + 1 for title in row) for row in of_rows)
    titled = lines * 1.3 * SMALL / 72
    figure, panels = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * side + titled), squeeze=False
    )
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for axes in panels.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image in zip(panels.flat, images, strict=False):
        if image is None:
            axes.set_axis_off()
        else:
            axes.imshow(image, interpolation="nearest")
    for i, title in enumerate(wrapped):
        color = colors[i] if colors else "black"
        panels.flat[i].set_title(title, fontsize=SMALL, fontweight="normal", color=color, pad=2)
    for row, label in zip(panels, row_labels, strict=False):
        row[0].set_ylabel(label, fontsize=SMALL)
    return figure, list(panels.flat[: len(images)])


def _draw_box(axes: Axes, image: np.ndarray, box: Any, color: str) -> None:
    """A box (xmin, ymin, xmax, ymax) in [0, 1], in a color on white."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.array(box).clip(0, 1) * [width, height, width, height] - 0.5
    for edge, thickness in (("white", 2.4), (color, 1.2)):
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color=edge, lw=thickness)
        )


def plot_samples(samples: Sequence[tuple[bytes, str, Any]]) -> Figure:
    """A sheet of images with their words and boxes.

    Args:
        samples: list of (JPEG bytes, words, box), the box as (xmin, ymin, xmax, ymax) in [0, 1] or
            None.

    Returns:
        The matplotlib `Figure`.
    """
    images = [decode_image(jpeg) for jpeg, _, _ in samples]
    figure, panels = image_grid(
        images, columns=8, titles=[short_name(words) for _, words, _ in samples]
    )
    for axes, image, (_, _, box) in zip(panels, images, samples, strict=True):
        if box is not None:
            _draw_box(axes, image, box, PREDICTED)
    return figure


def plot_batch(images: Sequence[np.ndarray]) -> Figure:
    """Images of a batch as the network sees them.

    Args:
        images: uint8 (batch, height, width, 3).

    Returns:
        The matplotlib `Figure`.
    """
    return image_grid(list(images), columns=12)[0]


def plot_predictions(predictions: Mapping[str, Any], rows: int = 4, columns: int = 6) -> Figure:
    """Images with the predicted class: green frame when right, orange when wrong.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        rows: rows of images.
        columns: images per row.

    Returns:
        The matplotlib `Figure`.
    """
    names = [short_name(words) for words in predictions["words"]]
    kept = predictions["sample"][: rows * columns]
    labels, predicted = predictions["labels"][kept], predictions["classes"][kept, 0]
    titles = [
        f"{names[p]}\n{probability:.0%}" + ("" if p == label else f", is {names[label]}")
        for p, label, probability in zip(
            predicted, labels, predictions["probabilities"][kept, 0], strict=True
        )
    ]
    colors = [TRUE if p == label else PREDICTED for p, label in zip(predicted, labels, strict=True)]
    images = [decode_image(jpeg) for jpeg in predictions["jpeg"][: len(kept)]]
    figure, panels = image_grid(images, columns, titles=titles, colors=colors)
    for axes, color in zip(panels, colors, strict=True):
        axes.spines[:].set(visible=True, color=color, linewidth=2)
    return figure


def plot_confused_images(predictions: Mapping[str, Any], groups: Sequence[Sequence[int]]) -> Figure:
    """Images that were confused with the other class of a pair, a row for each pair.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        groups: as `utils.training.predictions.confused_images` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    names = [short_name(words) for words in predictions["words"]]
    kept = dict(zip(predictions["sample"].tolist(), predictions["jpeg"], strict=True))
    columns = max(len(group) for group in groups)
    images: list[np.ndarray | None] = []
    titles = []
    for group in groups:
        images += [decode_image(kept[index]) for index in group] + [None] * (columns - len(group))
        for index in group:
            label, predicted = predictions["labels"][index], predictions["classes"][index, 0]
            titles.append(f"{names[label]}\nas {names[predicted]}")
        titles += ["\n"] * (columns - len(group))
    return image_grid(images, columns, titles=titles)[0]


def plot_grad_cam(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
    right: Sequence[bool] = (),
) -> Figure:
    """Images, and below each where the layers find evidence for its class.

    Args:
        images: uint8 (n, height, width, 3).
        maps: as `utils.analysis.gradients.grad_cam` returns them.
        titles: n titles.
        right: whether the network is right; titles are orange where not.

    Returns:
        The matplotlib `Figure`.
    """
    colors = ["black" if is_right else PREDICTED for is_right in right]
    count, (height, width) = len(images), images.shape[1:3]
    pale = np.broadcast_to(images.mean(axis=-1, keepdims=True) / 2 + 127, images.shape)
    rows = [*images, *list(pale.astype(np.uint8)) * len(maps)]
    labels = [
        f"{layer.replace('_', ' ')}\n{cams.shape[1]}×{cams.shape[2]}"
        for layer, cams in maps.items()
    ]
    figure, panels = image_grid(
        rows, count, titles=titles, colors=colors, row_labels=["image", *labels]
    )
    overlays = [cam for cams in maps.values() for cam in cams]
    for axes, cam in zip(panels[count:], overlays, strict=True):
        axes.imshow(
            cam,
            cmap="inferno",
            alpha=0.55,
            vmin=0,
            vmax=1,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bicubic",
        )
    return figure


def plot_boxes(
    images: np.ndarray,
    targets: np.ndarray,
    outputs: np.ndarray,
    names: Sequence[str],
    columns: int = 8,
) -> Figure:
    """Images with their true and predicted boxes, titled with the predicted class.

    Args:
        images: uint8 (n, height, width, 3).
        targets: (n, 5), labels and boxes.
        outputs: (n, classes + 4), logits and boxes, as a network for localization gives them.
        names: of the classes.
        columns: images per row.

    Returns:
        The matplotlib `Figure`.
    """
    predicted = outputs[:, :-4].argmax(axis=1)
    right = predicted == targets[:, 0].astype(int)
    figure, panels = image_grid(
        list(images),
        columns,
        titles=[names[i] for i in predicted],
        colors=["black" if r else PREDICTED for r in right],
    )
    for axes, image, target, output in zip(panels, images, targets, outputs, strict=True):
        _draw_box(axes, image, target[1:], TRUE)
        _draw_box(axes, image, output[-4:], PREDICTED)
    handles = [Rectangle((0, 0), 1, 1, fill=False, color=color) for color in (TRUE, PREDICTED)]
    figure.legend(handles, ["true", "predicted"], loc="outside lower center", ncols=2)
    return figure


def plot_masks(
    images: np.ndarray, masks: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> Figure:
    """Images, their masks, and the predicted ones, colored by what is right.

    Green has the right class, orange a wrong one, black is taken for background.

    Args:
        images: uint8 (n, height, width, 3).
        masks: int (n, height, width), 0 for background.
        predicted: dict of title: masks of the same shape.

    Returns:
        The matplotlib `Figure`.
    """
    rows = {"mask": masks, **predicted}
    colors = 255 * np.array([to_rgb(color) for color in ("0.88", TRUE, PREDICTED, "black")])
    colors = colors.astype(np.uint8)
    kinds = [
        np.select([(row == 0) & (masks == 0), row == masks, row != 0], [0, 1, 2], default=3)
        for row in rows.values()
    ]
    grid = [*images, *(colors[kind] for row in kinds for kind in row)]
    return image_grid(grid, len(images), row_labels=["image", *rows])[0]
