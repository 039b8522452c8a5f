"""Random crops and horizontal flips of a batch, what they do to boxes and masks, and CutMix."""

from typing import Any

import numpy as np

CROP_SHARE = 8  # at each border an eighth of the side is reflected before the random crop
RATIO = (3 / 4, 4 / 3)  # of the width of a random crop that is resized to its height


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


def draw_resized_crops(
    count: int, image_size: int, least_area: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws which part of each image of a batch is shown and whether it is flipped.

    Args:
        count: images.
        image_size: their height and width, in pixels.
        least_area: of the part, as a share of the image.
        random: all that the result depends on.

    Returns:
        (crops, flipped): int32 (4, count), top, left, height and width in pixels; and bool
        (count,).

    Source:
        Szegedy et al., CVPR 2015, section 6; here a part that would be higher or wider than the
        image is cut to it.
    """
    area, ratio, *place = random.uniform(size=(4, count))
    areas = image_size**2 * (least_area + area * (1 - least_area))
    low, high = np.log(RATIO)
    ratios = np.exp(low + ratio * (high - low))
    sides = np.sqrt([areas / ratios, areas * ratios]).round().clip(1, image_size)
    corners = np.floor(place * (image_size - sides + 1))
    flipped = random.randint(2, size=count, dtype=bool)
    return np.concatenate([corners, sides]).astype(np.int32), flipped


def crop_and_resize(images: Any, crops: Any, flipped: Any) -> Any:
    """Enlarges a part of each image to the size of the whole, bilinearly, and flips some.

    Computed with whole numbers, in steps of 1/256 pixel, and therefore the same everywhere.

    Args:
        images: uint8 (batch, height, width, channels), of NumPy or of JAX.
        crops: see `draw_resized_crops`.
        flipped: likewise.

    Returns:
        An array like `images`.
    """
    (height, width), (tops, lefts, heights, widths) = images.shape[1:3], crops
    images = _enlarge(images, np.arange(height)[None], tops, heights)
    columns = np.arange(width) + flipped[:, None] * (width - 1 - 2 * np.arange(width))
    return _enlarge(images.swapaxes(1, 2), columns, lefts, widths).swapaxes(1, 2)


def _enlarge(images: Any, rows: Any, start: Any, length: Any) -> Any:
    """Rows of a part of each image, enlarged to the height of the whole.

    Args:
        images: uint8 (batch, height, width, channels).
        rows: (batch or 1, rows): which ones of the enlarged part.
        start: (batch,): the first row of the part.
        length: (batch,): its rows.

    Returns:
        uint8 (batch, rows, width, channels).
    """
    count, height = images.shape[:2]
    start, length = start[:, None], length[:, None]
    place = 256 * start + (2 * rows + 1) * length * 128 // height - 128  # in 1/256 row
    place = place.clip(256 * start, 256 * (start + length - 1))
    above, weight = place // 256, (place % 256)[:, :, None, None].astype("uint16")
    below = above + (above < start + length - 1)
    image = np.arange(count)[:, None]
    mixed = images[image, above] * (256 - weight) + images[image, below] * weight
    return ((mixed + 128) // 256).astype("uint8")


def draw_cuts(
    count: int, image_size: int, share: float, random: np.random.RandomState
) -> np.ndarray:
    """Draws which part of each image of a batch is replaced by another image's.

    Args:
        count: images.
        image_size: their height and width, in pixels.
        share: of the images in which anything is replaced.
        random: all that the result depends on.

    Returns:
        int32 (4, count), top, left, bottom and right in pixels, the last two exclusive: squares
        of any area up to the whole, cut off at the border.

    Source:
        Yun et al., "CutMix", ICCV 2019, section 3.1, with its alpha of 1.
    """
    mixed = random.uniform(size=count) < share
    area, *center = random.uniform(size=(3, count))
    side = np.sqrt(area * mixed)
    corners = np.concatenate([center - side / 2, center + side / 2])
    return (corners.clip(0, 1) * image_size).round().astype(np.int32)


def mix_images(images: Any, cuts: Any) -> Any:
    """Replaces a part of each image by that of its neighbor: the images of a batch are in pairs.

    Args:
        images: uint8 (batch, height, width, channels), of NumPy or of JAX.
        cuts: see `draw_cuts`.

    Returns:
        An array like `images`.
    """
    count, height, width = images.shape[:3]
    (top, left, bottom, right), rows = cuts[:, :, None, None], np.arange(height)[:, None]
    columns = np.arange(width)
    cut = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    return images * ~cut[..., None] + images[_neighbors(count)] * cut[..., None]


def mix_labels(labels: np.ndarray, cuts: np.ndarray, image_size: int) -> np.ndarray:
    """What `mix_images` makes of the labels.

    Args:
        labels: int (batch,).
        cuts: see `draw_cuts`.
        image_size: height and width of the images, in pixels.

    Returns:
        float32 (batch, 3): the label of the larger part of each image, that of the smaller part,
        and the share of the smaller part.
    """
    top, left, bottom, right = cuts
    share = (bottom - top) * (right - left) / image_size**2
    others = labels[_neighbors(len(labels))]
    smaller = share <= 0.5
    both = [np.where(smaller, labels, others), np.where(smaller, others, labels)]
    return np.stack([*both, np.minimum(share, 1 - share)], axis=1).astype(np.float32)


def _neighbors(count: int) -> np.ndarray:
    """1, 0, 3, 2, ...; the same in each process of several with even shares of a batch."""
    return (np.arange(count) ^ 1).clip(max=count - 1)


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
