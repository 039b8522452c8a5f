"""Reads any picture that Pillow knows, and makes a square of it."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# What turns a picture upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_PIXELS = 200_000_000  # what the largest phone cameras take; a bomb may claim any number
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit, which is below them


class ImageError(ValueError):
    """A file that cannot be taken for a picture; the message names it and says why."""


def read_image(
    path: str | Path | BinaryIO, *, draft: int | None = None, name: str | None = None
) -> Image.Image:
    """Reads any image that Pillow knows, upright and in 8 bits per channel.

    Of an animation the first frame is taken; transparent parts become white. Integers of 16 bits
    are scaled to 8; floats are taken to be in [0, 1] or [0, 255] if all of them are, and stretched
    from their smallest to their largest otherwise, as are integers of 32 bits.

    Args:
        path: the file, or one that is open for reading bytes.
        draft: a JPEG may be decoded at a lower resolution, if both sides keep this many pixels.
        name: what errors call it; None: its path.

    Returns:
        A PIL image of mode RGB.

    Raises:
        ImageError: no such file, not an image, damaged, or of more than `MAX_PIXELS` pixels.
    """
    name = name or str(path)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if draft is not None:
                image.draft("RGB", (draft, draft))
            return _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} is too large: more than {MAX_PIXELS:,} pixels. Scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        empty = isinstance(path, (str, os.PathLike)) and not os.path.getsize(path)
        what = "an empty file" if empty else "not an image that Pillow can read"
        raise ImageError(f"{name} is {what}.") from error
    except Exception as error:  # on damaged files Pillow's readers raise almost any kind
        raise ImageError(f"{name} cannot be read: {error or type(error).__name__}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turns as its EXIF data say; `ImageOps.exif_transpose` fails on odd values of other fields."""
    image.load()  # by which Pillow turns a TIFF itself, and then says so
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scales gray values of 16 or 32 bits; see `read_image`."""
    finite = pixels[np.isfinite(pixels)].astype(float)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(pixels.astype(float), nan=low, posinf=high, neginf=low)
    tops = (65535.0,) if np.issubdtype(pixels.dtype, np.integer) else (1.0, 255.0)
    fitting = [top for top in tops if low >= 0 and high <= top]
    if not fitting:
        values, fitting = values - low, [high - low or 1.0]
    return np.round(values * (255 / fitting[0])).astype(np.uint8)


def central_square(image: Image.Image, size: int) -> np.ndarray:
    """The largest central square of an image, scaled by averaging to (size, size, 3) uint8."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BOX))
