"""What a dataset is before it is converted: its images, their classes and how one is read."""

import os
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from utils.data.archives import Archive, DatasetError

Box = tuple[float, float, float, float]
Read = tuple[bytes, bytes | None, Image.Image]  # JPEG, PNG of the mask, decoded: RGB or L (gray)


class UnusableImage(DatasetError):
    """One image cannot be used; a conversion goes on to find the others."""


def read_file(source: Archive, name: str) -> bytes:
    """Reads a file of an image; raises `UnusableImage` if the archive cannot."""
    try:
        return source.read(name)
    except DatasetError as error:
        raise UnusableImage(str(error)) from error


class ImageFile(NamedTuple):
    """One image of the dataset and what is known of it."""

    name: str  # path in the archive
    wnid: str  # of its class
    boxes: tuple[Box, ...] = ()  # of (xmin, ymin, xmax, ymax): fractions of the image's sides
    mask: str | None = None  # path in the archive
    path: str | None = None  # what records call it, where base names do not tell images apart

    @property
    def filename(self) -> str:
        """What the records and the hold-out call it."""
        return self.path or os.path.basename(self.name)


class Layout(NamedTuple):
    """All images of the dataset."""

    dataset: str  # its name in a manifest
    classes: list[str]  # sorted ids, such as wnids
    words: list[str]  # in the order of classes
    splits: dict[str, list[ImageFile]]  # "train", "validation": sorted by name
    image_size: int  # height and width in the records, in pixels
    read: Callable[[Archive, ImageFile], Read]  # of one image; raises `UnusableImage`
    files_sha256: str | None = None  # of names and sizes, where the source may change
