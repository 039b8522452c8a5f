"""Writes the TFRecords of a dataset: its shards and its manifest.

The records have the schema of TensorFlow's ImageNet script, so any ImageNet reader takes them. The
same data gives the same shards and the same manifest from a zip, a tar or a folder.

Source: tensorflow/tpu, tools/datasets/imagenet_to_gcs.py (schema); tensorflow/models,
research/slim/datasets/build_imagenet_data.py (boxes) and research/deeplab/datasets/build_data.py
(masks).
"""

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from utils import tfrecord
from utils.data.archives import Archive, DatasetError
from utils.data.datasets import tiny_shapes
from utils.data.datasets.folder import FOLDER
from utils.data.datasets.layout import ImageFile, Layout, Read, UnusableImage
from utils.data.manifest import SCHEMA, Manifest, Options, write_manifest
from utils.fields import first_of
from utils.files import file_sha256
from utils.progress import Bar

SHUFFLE_SEED = 2012
HOLDOUT_SEED = 2018
HOLDOUT_PER_CLASS = 50
READERS = 16  # threads; a disk takes long to find each file of a folder
READ_AHEAD = 256  # images

EDGES = tuple(f"image/object/bbox/{edge}" for edge in ("xmin", "ymin", "xmax", "ymax"))
MASK = "image/segmentation/class/encoded"


def describe_layout(layout: Layout, options: Options | None = None) -> Manifest:
    """What a manifest says of a dataset before its images are read.

    Args:
        layout: all images.
        options: what the dataset was drawn or prepared with, if it was.

    Returns:
        The manifest, still without shards and without what only the images tell.
    """
    drawn = [wnid for wnid, *_ in tiny_shapes.CLASSES]
    synthetic = layout.dataset != FOLDER and layout.classes == drawn
    holdout = choose_holdout(layout)
    per_class = {
        split: Counter(image.wnid for image in images) for split, images in layout.splits.items()
    }
    return {
        "schema": SCHEMA,
        "dataset": "tiny-shapes" if synthetic else layout.dataset,
        "options": options or {},
        "synthetic": synthetic,
        "image_size": layout.image_size,
        "classes": layout.classes,
        "words": layout.words,
        "counts": {split: len(images) for split, images in layout.splits.items()}
        | {"holdout": len(holdout)},
        "class_counts": {
            split: [counts[wnid] for wnid in layout.classes] for split, counts in per_class.items()
        },
        "shuffle_seed": SHUFFLE_SEED,
        "holdout_seed": HOLDOUT_SEED,
        "holdout": holdout,
        **({"files_sha256": layout.files_sha256} if layout.files_sha256 else {}),
    }


def write_records(
    source: Archive, layout: Layout, folder: Path, shards: dict[str, int], description: Manifest
) -> Manifest:
    """Reads and checks all images; writes the shards, then the manifest.

    Args:
        source: the open archive.
        layout: its images.
        folder: an empty folder.
        shards: number of files of each split.
        description: what `describe_layout` says of it.

    Returns:
        The complete manifest.

    Raises:
        DatasetError: an image that is not as described.
        OSError: the disk is full, say.
    """
    manifest = {**description, "grayscale": {}, "shards": {}}
    digest = hashlib.sha256()
    unusable: list[UnusableImage] = []
    total = sum(len(images) for images in layout.splits.values())
    with (
        ThreadPoolExecutor(READERS) as pool,
        Bar(total=total, desc="Converting", unit=" images") as progress,
    ):
        for split, images in layout.splits.items():
            histogram = np.zeros(3 * 256, np.int64)
            grayscale = 0
            order = np.random.RandomState(SHUFFLE_SEED).permutation(len(images))
            names = shard_names(split, shards[split])
            for name, part in zip(names, np.array_split(order, len(names)), strict=True):
                readings = _read_ahead(source, layout, [images[index] for index in part], pool)
                with (folder / name).open("wb") as shard:
                    for record, counts in _records(readings, layout, unusable, progress):
                        tfrecord.write_record(shard, record)
                        digest.update(record)
                        gray = len(counts) == 256
                        grayscale += gray
                        histogram += np.array(counts * (3 if gray else 1))
                manifest["shards"][name] = {
                    "records": len(part),
                    "bytes": (folder / name).stat().st_size,
                    "sha256": file_sha256(folder / name),
                }
            manifest["grayscale"][split] = grayscale
            if split == "train" and not unusable:
                moments = [_mean_and_std(channel) for channel in histogram.reshape(3, 256)]
                manifest["pixel_mean"], manifest["pixel_std"] = map(
                    list, zip(*moments, strict=True)
                )
    if unusable:
        raise _listed(unusable)
    manifest["records_sha256"] = digest.hexdigest()
    return write_manifest(folder, manifest)


def _records(
    readings: Iterator[tuple[ImageFile, Future[Read]]],
    layout: Layout,
    unusable: list[UnusableImage],
    progress: Bar,
) -> Iterator[tuple[bytes, list[int]]]:
    """Yields the record and the histogram of each image; adds to `unusable` what is not as said."""
    label = {wnid: index + 1 for index, wnid in enumerate(layout.classes)}
    for image, reading in readings:
        progress.update()
        try:
            data, mask, decoded = reading.result()
        except UnusableImage as error:
            unusable.append(error)
            continue
        record = encode_record(image, data, mask, label[image.wnid], layout.image_size)
        yield record, decoded.histogram()


def _listed(unusable: list[UnusableImage]) -> DatasetError:
    """One error for all images that cannot be used."""
    if len(unusable) == 1:
        return unusable[0]
    listed = first_of([*map(str, unusable)], most=20, between="\n")
    return DatasetError(f"{len(unusable)} images cannot be used:\n{listed}")


def shard_names(split: str, number: int) -> list[str]:
    """The files of a split, such as train-00000-of-00016."""
    return [f"{split}-{index:05d}-of-{number:05d}" for index in range(number)]


def _read_ahead(
    source: Archive, layout: Layout, images: list[ImageFile], pool: ThreadPoolExecutor
) -> Iterator[tuple[ImageFile, Future[Read]]]:
    """Yields each image with the reading of it, some hundreds of which are begun ahead."""
    ahead: deque[tuple[ImageFile, Future[Read]]] = deque()
    for image in images:
        ahead.append((image, pool.submit(layout.read, source, image)))
        if len(ahead) > READ_AHEAD:
            yield ahead.popleft()
    yield from ahead


def choose_holdout(layout: Layout) -> list[str]:
    """Chooses the hold-out; by RandomState, whose numbers NumPy promises not to change."""
    random = np.random.RandomState(HOLDOUT_SEED)
    names: dict[str, list[str]] = {wnid: [] for wnid in layout.classes}
    for image in layout.splits["train"]:
        names[image.wnid].append(image.filename)
    chosen: list[str] = []
    for group in names.values():
        number = min(HOLDOUT_PER_CLASS, len(group) // 2)
        chosen += [group[index] for index in random.permutation(len(group))[:number]]
    return sorted(chosen)


def encode_record(
    image: ImageFile, data: bytes, mask: bytes | None, label: int, size: int
) -> bytes:
    """Serializes one record.

    Args:
        image: what is known of the image.
        data: its JPEG bytes.
        mask: PNG bytes of its mask, if it has one.
        label: of its class, from 1.
        size: its height and width, in pixels.

    Returns:
        A `tf.train.Example` in TensorFlow's ImageNet schema.
    """
    example = tfrecord.Example()
    feature = example.features.feature
    numbers = {
        "image/height": size,
        "image/width": size,
        "image/channels": 3,
        "image/class/label": label,
    }
    texts = {
        "image/colorspace": b"RGB",
        "image/class/synset": image.wnid.encode(),
        "image/format": b"JPEG",
        "image/filename": image.filename.encode(),
        "image/encoded": data,
    }
    if mask is not None:
        texts |= {MASK: mask, "image/segmentation/class/format": b"png"}
    for key, number in numbers.items():
        feature[key].int64_list.value.append(number)
    for key, text in texts.items():
        feature[key].bytes_list.value.append(text)
    if image.boxes:
        for index, key in enumerate(EDGES):
            feature[key].float_list.value.extend(box[index] for box in image.boxes)
    return example.SerializeToString(deterministic=True)


def _mean_and_std(histogram: np.ndarray) -> tuple[float, float]:
    """Moments of the values 0..255 from exact sums; rounded, as decoders may differ by a hair."""
    values = range(256)
    counts = histogram.tolist()
    number = sum(counts)
    total = sum(v * c for v, c in zip(values, counts, strict=True))
    squares = sum(v * v * c for v, c in zip(values, counts, strict=True))
    std = math.sqrt(number * squares - total * total) / number
    return round(total / number, 4), round(std, 4)
