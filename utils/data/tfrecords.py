"""Tiny ImageNet to TFRecords: read the layout, check every file, write shards and a manifest.

The records have the schema of TensorFlow's ImageNet script, so any ImageNet reader takes them. The
same data gives the same shards and the same manifest from a zip, a tar or a folder.

Source: tensorflow/tpu, tools/datasets/imagenet_to_gcs.py (schema); tensorflow/models,
research/slim/datasets/build_imagenet_data.py (boxes) and research/deeplab/datasets/build_data.py
(masks).
"""

import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from utils.data import tiny_shapes
from utils.data.archives import Archive, DatasetError, open_archive
from utils.data.manifest import MANIFEST, SCHEMA, _damaged_shards, _sha256, load_manifest
from utils.data.tiny_imagenet import IMAGE_SIZE, ImageFile, Layout, read_image, read_layout

OFFICIAL_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
OFFICIAL_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"

SHUFFLE_SEED = 2012
HOLDOUT_SEED = 2018
HOLDOUT_PER_CLASS = 50
READERS = 16  # threads; a disk takes long to find each file of a folder
READ_AHEAD = 256  # images
RECORD_OVERHEAD = 512  # bytes a record beside the image, for the check of the disk


def convert(
    archive: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    sha256: str | None = None,
    train_shards: int = 16,
    validation_shards: int = 2,
) -> dict:
    """Converts a dataset in Tiny ImageNet's layout to TFRecords.

    Every image is decoded once and checked; JPEG bytes are stored as they are. The records are
    built in a temporary folder beside `output_dir` that is renamed at the end, so a failure
    leaves nothing. A finished conversion in `output_dir` is recognised by its manifest, without
    the archive, and not repeated; if one of its shards is damaged, all are rebuilt.

    Args:
        archive: Path of a zip, tar.xz, tar.gz or folder, or a URL. In place of the official URL a
            file of its name in `data/`, or a tar of it, is taken if there is one.
        output_dir: Folder of the records: new, empty or of an earlier conversion.
        sha256: Expected digest of the archive file; the official URL has its own.
        train_shards: Number of train files.
        validation_shards: Number of validation files.

    Returns:
        The manifest, as in `output_dir/manifest.json`.

    Raises:
        DatasetError: Anything wrong with the archive, its files, `output_dir` or the disk.
    """
    shards = {"train": train_shards, "validation": validation_shards}
    if manifest := _finished(output_dir, shards):
        return manifest
    if str(archive) == OFFICIAL_URL:
        archive = _at_hand(Path(OFFICIAL_URL).stem) or archive
        if str(archive).endswith(".zip"):
            sha256 = sha256 or OFFICIAL_SHA256
    return _build(archive, Path(output_dir), sha256, shards)


def _at_hand(name: str, folder: str = "data") -> Path | None:
    """An archive that somebody has put into `folder`, so that nothing is downloaded."""
    for ending in (".zip", ".tar.xz", ".tar.gz"):
        path = Path(folder, name + ending)
        if path.exists():
            print(f"Taking {path} instead of downloading.")
            return path
    return None


def _finished(output_dir: str | os.PathLike, shards: dict) -> dict | None:
    """Returns the manifest of a finished, undamaged conversion with these numbers of shards."""
    output_dir = Path(output_dir)
    if not (output_dir / MANIFEST).exists():
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise DatasetError(
                f"{output_dir} exists and holds no {MANIFEST}; choose a new or empty output_dir."
            )
        return None
    manifest = load_manifest(output_dir, verify=False)
    damaged = _damaged_shards(output_dir, manifest)
    names = {name for split, number in shards.items() for name in _shard_names(split, number)}
    if not damaged and set(manifest["shards"]) == names:
        print(f"{output_dir} already holds the converted dataset.")
        return manifest
    reason = f"damaged: {', '.join(damaged)}" if damaged else "other numbers of shards asked for"
    print(f"Rebuilding the records in {output_dir} ({reason}).")
    return None


def _build(archive, output_dir: Path, sha256: str | None, shards: dict) -> dict:
    """Converts into a temporary folder beside `output_dir`, then moves the result there."""
    target = Path(os.path.realpath(output_dir))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            if os.path.isfile(archive):
                _check_disk(target.parent, os.path.getsize(archive))
            built = Path(scratch, "records")
            built.mkdir()
            with open_archive(archive, scratch, sha256=sha256, marker="wnids.txt") as source:
                layout = read_layout(source)
                _check_disk(target.parent, source.size + RECORD_OVERHEAD * len(source.names()))
                manifest = _write_records(source, layout, built, shards)
            _publish(built, target)
    except (OSError, tf.errors.OpError) as error:
        raise DatasetError(
            f"Writing {output_dir} failed ({error}); make room on the disk, check the permissions "
            "or choose another output_dir, then convert again."
        ) from error
    return manifest


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(
            f"The disk of {folder} is full: {free / 1e6:.0f} MB are free and about "
            f"{needed / 1e6:.0f} MB needed; make room or choose another output_dir."
        )


def _publish(built: Path, target: Path) -> None:
    """Moves finished records to `target`: new, empty, or holding an earlier conversion."""
    if not (target / MANIFEST).exists():
        if target.exists():
            target.rmdir()
        built.rename(target)
        return
    new = sorted(built.iterdir(), key=lambda file: file.name == MANIFEST)  # the manifest last
    stale = set(load_manifest(target, verify=False)["shards"]) - {file.name for file in new}
    for file in new:
        file.replace(target / file.name)
    for name in stale:
        (target / Path(name).name).unlink(missing_ok=True)


def _shard_names(split: str, number: int) -> list[str]:
    if number < 1:
        raise ValueError(f"A split needs at least one shard. Received: {number} for {split}")
    return [f"{split}-{index:05d}-of-{number:05d}" for index in range(number)]


def _write_records(source: Archive, layout: Layout, folder: Path, shards: dict) -> dict:
    """Writes all shards, then the manifest, into `folder`."""
    synthetic = any(wnid.startswith(tiny_shapes.PREFIX) for wnid in layout.classes)
    label = {wnid: index + 1 for index, wnid in enumerate(layout.classes)}
    holdout = _holdout(layout)
    classes = len(layout.classes)
    manifest = {
        "schema": SCHEMA,
        "dataset": "tiny-imagenet" if layout.official else "tiny-imagenet-like",
        "synthetic": synthetic,
        "image_size": IMAGE_SIZE,
        "classes": layout.classes,
        "words": layout.words,
        "counts": {split: len(images) for split, images in layout.splits.items()},
        "class_counts": {},
        "grayscale": {},
        "shuffle_seed": SHUFFLE_SEED,
        "holdout_seed": HOLDOUT_SEED,
        "holdout": holdout,
        "shards": {},
    }
    manifest["counts"]["holdout"] = len(holdout)
    if synthetic:
        manifest["dataset"] = "tiny-shapes"
    total = sum(len(images) for images in layout.splits.values())
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=total, desc="Converting", unit=" images", mininterval=2) as progress,
    ):
        for split, images in layout.splits.items():
            class_counts = [0] * classes
            histogram = np.zeros(3 * 256, np.int64)
            grayscale = 0
            order = np.random.RandomState(SHUFFLE_SEED).permutation(len(images))
            names = _shard_names(split, shards[split])
            for name, part in zip(names, np.array_split(order, len(names)), strict=True):
                chosen = [images[index] for index in part]
                with tf.io.TFRecordWriter(str(folder / name)) as writer:
                    for image, (data, mask, decoded) in _read_ahead(source, chosen, classes, pool):
                        writer.write(_example(image, data, mask, label[image.wnid]))
                        gray = decoded.mode == "L"
                        grayscale += gray
                        class_counts[label[image.wnid] - 1] += 1
                        histogram += np.array(decoded.histogram() * (3 if gray else 1))
                        progress.update()
                manifest["shards"][name] = {
                    "records": len(part),
                    "bytes": (folder / name).stat().st_size,
                    "sha256": _sha256(folder / name),
                }
            manifest["class_counts"][split] = class_counts
            manifest["grayscale"][split] = grayscale
            if split == "train":
                moments = [_mean_and_std(channel) for channel in histogram.reshape(3, 256)]
                manifest["pixel_mean"], manifest["pixel_std"] = map(
                    list, zip(*moments, strict=True)
                )
    text = json.dumps(manifest, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")
    return json.loads(text)


def _read_ahead(
    source: Archive, images: list[ImageFile], classes: int, pool: ThreadPoolExecutor
) -> Iterator:
    """Yields each image with what `read_image` returns for it, reading some hundreds ahead."""
    ahead = deque()
    for image in images:
        ahead.append((image, pool.submit(read_image, source, image, classes)))
        if len(ahead) > READ_AHEAD:
            image, reading = ahead.popleft()
            yield image, reading.result()
    for image, reading in ahead:
        yield image, reading.result()


def _holdout(layout: Layout) -> list[str]:
    """Chooses the hold-out of train; RandomState, whose numbers NumPy promises not to change."""
    random = np.random.RandomState(HOLDOUT_SEED)
    names = {wnid: [] for wnid in layout.classes}
    for image in layout.splits["train"]:
        names[image.wnid].append(os.path.basename(image.name))
    chosen = []
    for group in names.values():
        number = min(HOLDOUT_PER_CLASS, len(group) // 2)
        chosen += [group[index] for index in random.permutation(len(group))[:number]]
    return sorted(chosen)


def _example(image: ImageFile, data: bytes, mask: bytes | None, label: int) -> bytes:
    """Serializes one record."""

    def int64(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "image/height": int64(IMAGE_SIZE),
        "image/width": int64(IMAGE_SIZE),
        "image/channels": int64(3),
        "image/colorspace": text("RGB"),
        "image/class/label": int64(label),
        "image/class/synset": text(image.wnid),
        "image/format": text("JPEG"),
        "image/filename": text(os.path.basename(image.name)),
        "image/encoded": text(data),
    }
    for index, key in enumerate(("xmin", "ymin", "xmax", "ymax")):
        if image.boxes:
            edges = tf.train.FloatList(value=[box[index] for box in image.boxes])
            feature[f"image/object/bbox/{key}"] = tf.train.Feature(float_list=edges)
    if mask is not None:
        feature["image/segmentation/class/encoded"] = text(mask)
        feature["image/segmentation/class/format"] = text("png")
    example = tf.train.Example(features=tf.train.Features(feature=feature))
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
