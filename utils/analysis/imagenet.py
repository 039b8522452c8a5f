"""ImageNet as the authors' networks want it: their preprocessing, and accuracy over a folder."""

import math
import os
from pathlib import Path

import keras
import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = {".jpeg", ".jpg", ".png"}


def read_image(path, *, resize=256, size=224):
    """Reads an image as ImageNet networks are evaluated: scaled, then its central square.

    Args:
        path: an image file.
        resize: its shorter side after scaling, in pixels; bilinear, as torchvision's `Resize`.
        size: height and width of the square.

    Returns:
        uint8 (size, size, 3); mean and deviation are the network's business.

    Raises:
        ValueError: the file is not an image.
    """
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read.") from error
    scale = resize / min(image.size)
    width, height = (
        resize if side == min(image.size) else int(side * scale) for side in image.size
    )
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in (width, height))
    return np.asarray(image.crop((left, top, left + size, top + size)))


class _Folder(keras.utils.PyDataset):
    """Batches of (images, labels) that threads read."""

    def __init__(self, files, labels, batch_size, resize, size):
        super().__init__(workers=os.cpu_count() or 1, max_queue_size=16)
        self.files, self.labels, self.batch_size = files, labels, batch_size
        self.sizes = {"resize": resize, "size": size}

    def __len__(self):
        return math.ceil(len(self.files) / self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        images = np.stack([read_image(path, **self.sizes) for path in self.files[part]])
        return images, self.labels[part]


def evaluate_folder(model, folder, *, pattern="**/*", batch_size=32, resize=256):
    """Accuracy over a folder that has one subfolder a class, as ImageNet's val usually is laid out.

    Args:
        model: from (n, size, size, 3) of 0..255 to logits (n, classes).
        folder: its subfolders, sorted by name, are the classes.
        pattern: of the images within a subfolder; other files are passed over.
        batch_size: images at a time.
        resize: see `read_image`; the square is as large as the model's input.

    Returns:
        Dict: top1 and top5, fractions, and images, their number.

    Raises:
        ValueError: the subfolders are not as many as the model's classes, or hold no images.
    """
    folders = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    classes = model.output_shape[-1]
    if len(folders) != classes:
        raise ValueError(
            f"{folder} must have one subfolder for each of the model's {classes} classes. "
            f"Received: {len(folders)}"
        )
    found = [sorted(p for p in f.glob(pattern) if p.suffix.lower() in SUFFIXES) for f in folders]
    empty = [f.name for f, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise ValueError(f"{folder} has no images in {', '.join(empty[:5])}.")
    labels = np.repeat(np.arange(classes), [len(files) for files in found])
    files = [path for files in found for path in files]
    batches = _Folder(files, labels, batch_size, resize, model.input_shape[1])
    logits = model.predict(batches, verbose=0)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]
    return {
        "top1": float(best[:, 0].mean()),
        "top5": float(best.any(axis=1).mean()),
        "images": len(files),
    }
