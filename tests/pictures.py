"""Pictures in class folders, and records made from them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.prepare import prepare_dataset
from utils.data.read_records import open_arrays

RED, BLUE = (200, 30, 20), (20, 30, 200)


def picture(path, color=RED, size=(40, 30), seed=None, **options):
    """Saves a picture of one color, or of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    if seed is not None:
        pixels = np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), np.uint8)
        image = Image.fromarray(pixels)
    image.save(path, **options)
    return path


def converted(archive, output=None, **options):
    options = {"image_size": 32, **options}
    output = output or Path(archive).parent / "records"
    return prepare_dataset("folder", output, archive=archive, **options)


def files_of(output, manifest, prefix):
    held = open_arrays(output, manifest, prefix)
    return held.images, held.labels


def refusal(archive, **options):
    with pytest.raises(DatasetError) as error:
        converted(archive, **options)
    assert not (Path(archive).parent / "records").exists()
    return str(error.value).removeprefix(f"{archive}: ")


def split_of(pets):
    """The same pictures with a split."""
    root = pets.parent / "split"
    for i, file in enumerate(sorted(pets.rglob("*.png"))):
        target = root / ("val" if i % 2 else "train") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return root
