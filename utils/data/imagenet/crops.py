"""What ImageNet's images go through: decoding, random crops with flips and colors, center crops."""

import functools
from typing import Any

import numpy as np

from utils.data.archives import DatasetError
from utils.data.augmentation import RATIO

AREA = (0.08, 1.0)  # of a random crop, as a part of the image
ATTEMPTS = 10  # crops that are drawn for an image until one fits
CENTER = 224 / 256  # part of the shorter side that is evaluated
LIGHTING = 0.1
# Of ImageNet's colors in [0, 1]: eigenvectors as columns, times the eigenvalues.
# Source: Krizhevsky et al., NeurIPS 2012, section 4.1; numbers of facebook/fb.resnet.torch.
COLORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * np.array([0.2175, 0.0188, 0.0045])


def decode(jpeg: bytes) -> np.ndarray:
    """The pixels of an image, uint8 (height, width, 3), whatever its color space; never turned.

    OpenCV because it does this and scaling at twice the speed of Pillow.

    Raises:
        ValueError: it is not an image, or a damaged one.
    """
    cv2 = opencv()
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    except cv2.error:  # it is empty, or has more pixels than OpenCV takes
        image = None
    if image is None:
        raise ValueError("an image cannot be decoded")
    return image


@functools.cache
def opencv() -> Any:
    """The module `cv2`.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise DatasetError(
            "Dataset imagenet needs OpenCV: pip install opencv-python-headless"
        ) from error
    cv2.setNumThreads(0)  # the images of a batch share the cores
    return cv2


def draw_crops_and_colors(
    count: int, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draws how each image of a batch is cropped, colored and flipped, a column per image.

    Args:
        count: images.
        random: all that the result depends on.

    Returns:
        (numbers, flipped): float64 (4 * attempts + 3, count), of which the first are uniform in
        [0, 1), for crops, and the last three normal, for the colors; and bool (count,).
    """
    uniform = random.uniform(size=(4 * ATTEMPTS, count))
    normal = random.normal(size=(3, count))
    return np.concatenate([uniform, normal]), random.randint(2, size=count, dtype=bool)


def crop_box(height: int, width: int, uniform: np.ndarray) -> tuple[int, int, int, int]:
    """A random part of an image: of 8 to 100 % of its area, 3:4 to 4:3.

    Args:
        height: of the image, in pixels.
        width: likewise.
        uniform: (attempts, 4) in [0, 1); the first crop that fits is taken, or the center.

    Returns:
        (top, left, height, width).

    Source:
        Szegedy et al., CVPR 2015, section 6, as in torchvision's `RandomResizedCrop`.
    """
    areas = height * width * (AREA[0] + uniform[:, 0] * (AREA[1] - AREA[0]))
    low, high = np.log(RATIO)
    ratios = np.exp(low + uniform[:, 1] * (high - low))
    widths = np.round(np.sqrt(areas * ratios)).astype(int)
    heights = np.round(np.sqrt(areas / ratios)).astype(int)
    fitting = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if not fitting.any():
        side = (min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1])))
        return (height - side[0]) // 2, (width - side[1]) // 2, *side
    first = int(fitting.argmax())
    h, w = int(heights[first]), int(widths[first])
    top, left = (uniform[first, 2:] * (height - h + 1, width - w + 1)).astype(int)
    return int(top), int(left), h, w


def augmented(image: np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """Crops an image at random, scales it and shifts its colors.

    Args:
        image: uint8 (height, width, 3).
        numbers: of `draw_crops_and_colors`, for this image.
        size: of the result, in pixels.

    Returns:
        uint8 (size, size, 3).

    Source:
        README of kevin-ssy/FishNet: area, ratio, and PCA lighting of 0.1.
    """
    cv2 = opencv()
    uniform = numbers[:-3].reshape(ATTEMPTS, 4)
    top, left, height, width = crop_box(image.shape[0], image.shape[1], uniform)
    image = cv2.resize(image[top : top + height, left : left + width], (size, size))
    shift = 255 * COLORS @ (LIGHTING * numbers[-3:])
    return cv2.add(image, (*shift, 0.0))  # saturates


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The center, 7/8 of the shorter side, scaled: 224 of 256 pixels, as it is called.

    Args:
        image: uint8 (height, width, 3).
        size: of the result, in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    cv2 = opencv()
    side = max(1, round(CENTER * min(image.shape[:2])))
    top, left = ((np.array(image.shape[:2]) - side) // 2).tolist()
    part = image[top : top + side, left : left + side]
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(part, (size, size), interpolation=way)
