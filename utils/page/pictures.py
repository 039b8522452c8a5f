"""The pictures of the page: those that come in, and how they are shown with what was found."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from utils.data.archives import DatasetError
from utils.data.manifest import load_manifest
from utils.data.pictures import ImageError, central_square, read_image
from utils.data.read_records import open_arrays
from utils.training.predictions import SAMPLES, decode_image, load_predictions

SIDE = 384  # pixels of a shown picture
HEAT = matplotlib.colormaps["inferno"]


class Picture(NamedTuple):
    """A picture as it is shown and as a network sees it."""

    shown: Image.Image  # SIDE x SIDE, RGB
    pixels: np.ndarray  # uint8 (size, size, 3)
    words: str | None = None  # of its class, if that is known


def read_picture(path: str | Path, size: int) -> Picture:
    """Reads a picture that a visitor chose.

    Args:
        path: the file.
        size: of the network's input, in pixels.

    Raises:
        ImageError: it cannot be read; the message has its name without the folder.
    """
    name = Path(path).name
    pixels = central_square(read_image(path, draft=2 * size, name=name), size)  # as in `classify`
    shown = read_image(path, draft=2 * SIDE, name=name)
    return Picture(ImageOps.fit(shown, (SIDE, SIDE)), pixels)


def drawn_picture(drawing: Image.Image | None, size: int) -> Picture:
    """What a visitor drew, as a picture.

    Args:
        drawing: of mode RGB; None without one.
        size: of the network's input, in pixels.

    Raises:
        ImageError: nothing was drawn.
    """
    if drawing is None or len(drawing.getcolors(2) or ()) == 1:
        raise ImageError("Nothing was drawn. Draw something first.")
    return Picture(ImageOps.fit(drawing, (SIDE, SIDE)), central_square(drawing, size))


def validation_pictures(
    kept: str | Path, data_dir: str | Path, count: int, seed: int
) -> list[Picture]:
    """Some validation images: of the records where they are, else of those kept with a run.

    Args:
        kept: the `.npz` file of a run's predictions.
        data_dir: folder of the records.
        count: how many.
        seed: of the draw.

    Returns:
        Pictures, with the words of their classes.
    """
    random = np.random.default_rng(seed)
    try:
        manifest = load_manifest(data_dir, verify=False)
        arrays = open_arrays(data_dir, manifest, "validation")
        chosen = random.permutation(len(arrays.labels))[:count]
        images, words = arrays.images[chosen], manifest["words"]
        labels = arrays.labels[chosen]
    except DatasetError:
        found = load_predictions(kept)
        words, drawn = found["words"], random.permutation(min(SAMPLES, len(found["jpeg"])))[:count]
        images = np.stack([decode_image(found["jpeg"][i]) for i in drawn])
        labels = found["labels"][found["sample"][drawn]]
    return [
        Picture(
            Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC),
            image,
            str(words[label]),
        )
        for image, label in zip(images, labels, strict=True)
    ]


def with_box(image: Image.Image, box: np.ndarray | None) -> Image.Image:
    """A shown picture with a box (xmin, ymin, xmax, ymax in [0, 1]), if there is one."""
    image = image.copy()
    if box is not None:
        corners = [float(edge) * (SIDE - 1) for edge in box]
        pen = ImageDraw.Draw(image)
        pen.rectangle(corners, outline="white", width=6)
        left, top, right, bottom = corners
        if right - left >= 2 and bottom - top >= 2:  # or there is no inside
            pen.rectangle([left + 1, top + 1, right - 1, bottom - 1], None, "#d55e00", 4)
    return image


def with_evidence(image: Image.Image, evidence: np.ndarray) -> Image.Image:
    """A shown picture in gray under a map of evidence, (rows, columns) in [0, 1]."""
    heat = Image.fromarray((255 * HEAT(evidence)[..., :3]).astype(np.uint8))
    gray = image.convert("L").convert("RGB")
    return Image.blend(gray, heat.resize(image.size, Image.Resampling.BICUBIC), 0.6)
