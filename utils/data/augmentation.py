"""Random crops and horizontal flips of a batch, and what they do to boxes and masks."""

from typing import Any

import numpy as np

CROP_SHARE = 8  # at each border an eighth of the side is reflected before the random crop


def draw_crops_and_flips(
    count: int, image_size: int, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws how each image of a batch is cropped and whether it is flipped.

    Args:
        count: images.
        image_size: their height and width, in pixels.
        random: all that the result depends on.

    Returns:
        (offsets, flipped): int32 (2, count), rows and columns from the image's corner to that of
        its crop, at most an eighth of the side either way; and bool (count,).
    """
    padding = image_size // CROP_SHARE
    offsets = random.randint(-padding, padding + 1, (2, count), np.int32)
    return offsets, random.randint(2, size=count, dtype=bool)


def crop_and_flip(images: np.ndarray, offsets: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """Crops images that are reflected at their borders, to their own size, and flips some.

    Args:
        images: (batch, height, width, channels), or masks (batch, height, width), contiguous.
        offsets: see `draw_crops_and_flips`.
        flipped: likewise.

    Returns:
        An array like `images`.

    Source:
        He et al. (2016), section 4.2, with reflection in place of zeros.
    """
    count, height, width = images.shape[:3]
    rows = reflect(offsets[0][:, None] + np.arange(height), height)
    columns = reflect(offsets[1][:, None] + np.arange(width), width)
    columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    rows += height * np.arange(count)[:, None]
    # Each pixel is one item, whatever its channels: a quarter of the time.
    pixels = images.reshape(count * height * width, -1)
    items = pixels.view(f"V{pixels.strides[0]}")[:, 0]
    taken = items.take(width * rows[:, :, None] + columns[:, None, :])
    return taken.view(images.dtype).reshape(images.shape)


def crop_and_flip_boxes(
    boxes: np.ndarray, offsets: np.ndarray, flipped: np.ndarray, image_size: int
) -> np.ndarray:
    """Crops and flips boxes with their images; boxes end at the edge of the crop.

    Args:
        boxes: float32 (batch, 4): xmin, ymin, xmax, ymax in [0, 1].
        offsets: see `draw_crops_and_flips`.
        flipped: likewise.
        image_size: height and width of the images, in pixels.

    Returns:
        An array like `boxes`.
    """
    rows, columns = offsets.astype(np.float32) / np.float32(image_size)
    moved = boxes - np.stack([columns, rows, columns, rows], axis=1)
    xmin, ymin, xmax, ymax = moved.clip(0.0, 1.0).T
    xmin, xmax = np.where(flipped, 1 - xmax, xmin), np.where(flipped, 1 - xmin, xmax)
    return np.stack([xmin, ymin, xmax, ymax], axis=1)


def reflect(index: Any, size: int) -> Any:
    """Reflects positions outside [0, size) at the border, as `numpy.pad(mode="reflect")`.

    Args:
        index: integers in (-size, 2 * size - 1), of NumPy or of JAX.
        size: of the axis.

    Returns:
        An array like `index`.
    """
    return size - 1 - abs(size - 1 - abs(index))
