"""The layout of Tiny ImageNet: which images there are, of which class, and reading one of them.

wnids.txt                           class ids (WordNet), one a line
words.txt                           id, tab, words
train/<wnid>/images/*.JPEG          training images of a class
train/<wnid>/<wnid>_boxes.txt       file, x0, y0, x1, y1; tab-separated; optional
val/images/*.JPEG                   validation images
val/val_annotations.txt             file, wnid, x0, y0, x1, y1; tab-separated
.../masks/*.png                     beside images/, optional: 0 background, 1 + class index

Accepted as well is what was sorted for ImageFolder: train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or
val/<wnid>/images/*.JPEG, whose validation images then have no boxes: all else is the same.
"""

import functools
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.data.archives import Archive, DatasetError
from utils.data.datasets.layout import Box, ImageFile, Layout, Read, UnusableImage, read_file
from utils.data.manifest import IMAGE_SIZE

Folders = dict[str, list[str]]  # the files of each folder; one that is missing has none

OFFICIAL = "tiny-imagenet"  # the dataset with the official classes
IMAGE_ENDINGS = (".jpeg", ".jpg")
# sha256 of the official 200 wnids, sorted and joined by newlines; images per class.
OFFICIAL_CLASSES_SHA256 = "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8"
OFFICIAL_CLASS_COUNTS = {"train": 500, "validation": 50}


def is_official(wnids: Iterable[str]) -> bool:
    """Whether these are the classes of the official Tiny ImageNet."""
    digest = hashlib.sha256("\n".join(sorted(wnids)).encode()).hexdigest()
    return digest == OFFICIAL_CLASSES_SHA256


def read_layout(source: Archive) -> Layout:
    """Lists the images of a dataset in Tiny ImageNet's layout.

    Box coordinates are divided by the image's size as they stand, and clipped to [0, 1]: pixel
    x begins at x / 64, and the official boxes, which end at 63 at most, stay short of 1.

    Args:
        source: the open archive.

    Returns:
        The layout, complete and consistent.

    Raises:
        DatasetError: missing or extra class folders, a class without an image, images without
            annotation or annotations without image, unknown wnids, malformed lines, or other
            counts than the official ones for the official classes.
    """
    classes = sorted(source.read_text("wnids.txt").split())
    if not classes or len(set(classes)) < len(classes):
        raise DatasetError(f"{source.path}: wnids.txt is empty or has a wnid twice; restore it.")
    words = dict(
        line.split("\t", 1) for line in source.read_text("words.txt").splitlines() if "\t" in line
    )
    folders: Folders = defaultdict(list)
    for name in source.names():
        folder, _, base = name.rpartition("/")
        folders[folder] += [base] if base else []
    found = _class_folders("train", folders)
    for wnid in sorted(found.symmetric_difference(classes)):
        problem = "has no wnid in wnids.txt" if wnid in found else "is missing"
        raise DatasetError(
            f"{source.path}: class folder train/{wnid} {problem}; make folders and wnids.txt agree."
        )
    train = [image for wnid in classes for image in _train_images(source, wnid, folders)]
    splits = {"train": train, "validation": _validation_images(source, set(classes), folders)}
    layout = Layout(
        OFFICIAL if is_official(classes) else f"{OFFICIAL}-like",
        classes,
        [words.get(wnid, wnid) for wnid in classes],
        {
            "train": sorted(splits["train"]),
            "validation": sorted(splits["validation"], key=lambda image: image.filename),
        },
        IMAGE_SIZE,
        functools.partial(read_checked_image, classes=len(classes)),
    )
    _check_counts(source, layout)
    return layout


def _class_folders(split: str, folders: Folders) -> set[str]:
    return {folder.split("/")[1] for folder in folders if folder.startswith(f"{split}/")}


def read_checked_image(source: Archive, image: ImageFile, classes: int) -> Read:
    """Reads and decodes one image, and its mask if it has one.

    Args:
        source: the open archive.
        image: what to read.
        classes: number of classes, the highest value of a mask.

    Returns:
        JPEG bytes, PNG bytes of the mask or None, and the decoded image, 64x64 RGB or L (gray).

    Raises:
        UnusableImage: not a whole 64x64 JPEG with 1 or 3 channels, or another mask than described.
    """
    data, mask = read_file(source, image.name), None
    decoded = _decode(source, image.name, data, "JPEG", ("RGB", "L"))
    if image.mask:
        mask = read_file(source, image.mask)
        highest = int(np.asarray(_decode(source, image.mask, mask, "PNG", ("L", "P"))).max())
        if highest > classes:
            raise UnusableImage(
                f"{source.path}: {image.mask} has the value {highest}; draw it with 0 (background) "
                f"to {classes} (the last class)."
            )
    return data, mask, decoded


def _decode(
    source: Archive, name: str, data: bytes, kind: str, modes: tuple[str, ...]
) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
        if image.size == (IMAGE_SIZE, IMAGE_SIZE) and image.mode in modes:
            image.load()
            # The decoder may not miss the end-of-image marker. One before the last start-of-scan
            # marker is a thumbnail's; bytes behind the end do no harm.
            if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
                raise OSError("truncated")
            return image
        problem = f"is {image.width}x{image.height} {image.mode}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        problem = f"cannot be decoded ({reason})"
    raise UnusableImage(
        f"{source.path}: {name} {problem}; replace it by a {IMAGE_SIZE}x{IMAGE_SIZE} {kind} with "
        f"mode {' or '.join(modes)}, or remove it and its annotation."
    )


def _train_images(source: Archive, wnid: str, folders: Folders) -> list[ImageFile]:
    folder, boxes_file = f"train/{wnid}", f"{wnid}_boxes.txt"
    images = _image_folder(folder, folders)
    if not folders[images]:
        raise DatasetError(f"{source.path}: {images} holds no image; restore it or drop the class.")
    boxes: dict[str, tuple[Box, ...]] = defaultdict(tuple)
    if boxes_file in folders[folder]:
        for (base,), box in _annotations(source, f"{folder}/{boxes_file}", "file"):
            boxes[base] += (box,)
    _check_listed(source, f"{folder}/{boxes_file}", boxes, images, folders)
    return [
        ImageFile(name, wnid, boxes[base], mask)
        for base, name, mask in _with_masks(source, folder, folders)
    ]


def _image_folder(folder: str, folders: Folders) -> str:
    """Where the images of a class are: in images/ or, sorted for ImageFolder, in its own folder."""
    below = f"{folder}/images"
    flat = any(base.lower().endswith(IMAGE_ENDINGS) for base in folders[folder])
    return folder if flat and not folders[below] else below


def _validation_images(source: Archive, classes: set[str], folders: Folders) -> list[ImageFile]:
    file, folder = "val/val_annotations.txt", "val/images"
    sorted_by_class = _class_folders("val", folders) - {"images", "masks"}
    if sorted_by_class and not folders[folder]:
        return _sorted_validation_images(source, classes, sorted_by_class, folders)
    known: dict[str, ImageFile] = {}
    for (base, wnid), box in _annotations(source, file, "file, wnid"):
        if wnid not in classes or base in known:
            problem = "is listed twice" if base in known else f"has the unknown wnid {wnid}"
            raise DatasetError(f"{source.path}: {file}: {base} {problem}; correct the line.")
        known[base] = ImageFile(f"{folder}/{base}", wnid, (box,))
    _check_listed(source, file, known, folder, folders)
    for base in folders[folder]:
        if base not in known:
            raise DatasetError(
                f"{source.path}: {folder}/{base} is not in {file}; add its line or remove the file."
            )
    return [
        known[base]._replace(mask=mask) for base, _, mask in _with_masks(source, "val", folders)
    ]


def _sorted_validation_images(
    source: Archive, classes: set[str], found: set[str], folders: Folders
) -> list[ImageFile]:
    """Validation images in folders of their class; boxes are not looked for."""
    for wnid in sorted(found - classes):
        raise DatasetError(
            f"{source.path}: class folder val/{wnid} has no wnid in wnids.txt; make folders and "
            "wnids.txt agree."
        )
    return [
        ImageFile(name, wnid, mask=mask)
        for wnid in sorted(found)
        for _, name, mask in _with_masks(source, f"val/{wnid}", folders)
    ]


def _annotations(source: Archive, file: str, names: str) -> Iterator[tuple[list[str], Box]]:
    """Yields the leading fields and the box of each line."""
    count = len(names.split(","))
    for number, line in enumerate(source.read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        fields = line.rstrip().split("\t")
        try:
            x0, y0, x1, y1 = (float(field) for field in fields[count:])
            valid = 0 <= x0 <= x1 and 0 <= y0 <= y1
        except ValueError:
            valid = False
        if not valid:
            raise DatasetError(
                f"{source.path}: {file}, line {number} is malformed: {line!r}; correct it to "
                f"{names}, x0, y0, x1, y1, separated by tabs."
            )
        xmin, ymin, xmax, ymax = (min(edge / IMAGE_SIZE, 1.0) for edge in (x0, y0, x1, y1))
        yield fields[:count], (xmin, ymin, xmax, ymax)


def _check_listed(
    source: Archive, file: str, listed: Iterable[str], folder: str, folders: Folders
) -> None:
    for base in sorted(set(listed).difference(folders[folder])):
        raise DatasetError(
            f"{source.path}: {file} lists {base}, which is not in {folder}; restore the file or "
            "remove the line."
        )


def _with_masks(
    source: Archive, folder: str, folders: Folders
) -> Iterator[tuple[str, str, str | None]]:
    """Yields base name, path and mask path of each image of a class, or of val."""
    images, masks = _image_folder(folder, folders), set(folders[f"{folder}/masks"])
    for base in folders[images]:
        if images == folder and not base.lower().endswith(IMAGE_ENDINGS):
            continue  # the boxes' file
        mask = base.rpartition(".")[0] + ".png"
        if masks and mask not in masks:
            raise DatasetError(f"{source.path}: {folder}/masks/{mask} is missing; restore it.")
        yield base, f"{images}/{base}", f"{folder}/masks/{mask}" if masks else None


def _check_counts(source: Archive, layout: Layout) -> None:
    for split, images in layout.splits.items():
        if not images:
            raise DatasetError(
                f"{source.path}: no {split} image was found; pass the complete dataset."
            )
        for base, number in Counter(image.name.rpartition("/")[2] for image in images).items():
            if number > 1:
                raise DatasetError(
                    f"{source.path}: {number} {split} images are named {base}; name each image "
                    "once, such as <wnid>_<number>.JPEG."
                )
        if layout.dataset != OFFICIAL:
            continue
        expected = OFFICIAL_CLASS_COUNTS[split]
        counts = Counter(image.wnid for image in images)
        for wnid in sorted(layout.classes):
            if counts[wnid] != expected:
                raise DatasetError(
                    f"{source.path}: {counts[wnid]} {split} images of {wnid}, but Tiny ImageNet "
                    f"has {expected}; pass the complete dataset."
                )
