"""Reads the TFRecords that `utils.data.write_records` writes: decoded once into arrays, or as is.

The arrays are `.npy` files in the folder `decoded` beside the records, and mapped into memory:
all processes of a machine share one copy of them.
"""

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from utils import tfrecord
from utils.data.archives import DOWNLOAD_CACHE, DatasetError, check_disk
from utils.data.imagenet.records import RecordFiles, Thumbnails
from utils.data.manifest import MAKE_AGAIN, Manifest, manifest_sha256
from utils.data.write_records import EDGES, MASK
from utils.files import (
    A_DAY,
    READ_ONLY,
    file_sha256,
    is_mounted,
    locked,
    replacing,
    unfinished,
    write_advice,
)
from utils.progress import Bar

DECODED = "decoded"  # folder beside the records
INDEX = "index.json"  # of that folder: the manifest's digest and the arrays'
PREFIXES = ("train", "validation")


class Arrays(NamedTuple):
    """All images of the training or validation set, in the order of `read_examples`."""

    images: np.ndarray  # uint8 (n, height, width, 3), mapped
    labels: np.ndarray  # int32 (n,), from 0
    boxes: np.ndarray  # float32 (n, 4): xmin, ymin, xmax, ymax in [0, 1]; NaN without exactly one
    held_out: np.ndarray  # bool (n,), whether the manifest lists it as held out
    masks: Any  # uint8 (n, height, width), mapped; None unless each image has one


def read_examples(
    data_dir: str | os.PathLike, manifest: Manifest, prefix: str
) -> Iterator[tfrecord.Example]:
    """Yields the records of some shards: the first of each shard, then the second of each.

    Args:
        data_dir: folder of the records.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        prefix: "train" or "validation".

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    shards = [tfrecord.read_records(path) for path in _shards(data_dir, manifest, prefix)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*shards))
    yield from _parsed(data_dir, (record for record in in_turn if record is not None))


def open_arrays(data_dir: str | os.PathLike, manifest: Manifest, prefix: str) -> Arrays:
    """Opens the decoded records; decodes them if that has not been done, or if they are damaged.

    They are in `data_dir`, or where that cannot be written in Keras' cache. Several processes may
    call this at once: one decodes, the others wait.

    Args:
        data_dir: folder of the records.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        prefix: "train" or "validation".

    Returns:
        `Arrays`.

    Raises:
        DatasetError: a record is damaged, an image cannot be decoded or is of another size, a label
            is out of range, or there is no room for the arrays.
    """
    folder = _decoded_folder(Path(data_dir), manifest, prefix)
    paths = {name: folder / f"{prefix}-{name}.npy" for name in Arrays._fields}
    return Arrays(
        images=np.asarray(np.load(paths["images"], mmap_mode="r")),
        labels=np.load(paths["labels"]),
        boxes=np.load(paths["boxes"]),
        held_out=np.load(paths["held_out"]),
        masks=np.asarray(np.load(paths["masks"], mmap_mode="r"))
        if paths["masks"].exists()
        else None,
    )


def encoded_images(
    data_dir: str | os.PathLike, manifest: Manifest, split: str = "val"
) -> Sequence[bytes]:
    """The JPEG bytes of the images that a run reports on, in the order in which it does.

    Args:
        data_dir: folder of the records.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: "val" or "holdout".

    Returns:
        Sequence of bytes; of ImageNet small ones, made when they are asked for.
    """
    if manifest["dataset"] == "imagenet":
        return Thumbnails(RecordFiles(data_dir, manifest, "validation"))
    held_out = set(manifest["holdout"])
    return [
        _bytes(example, "image/encoded")
        for example in read_examples(
            data_dir, manifest, "train" if split == "holdout" else "validation"
        )
        if split == "val" or _bytes(example, "image/filename").decode() in held_out
    ]


def read_samples(
    data_dir: str | os.PathLike, manifest: Manifest, *, count: int = 32
) -> list[tuple[bytes, str, tuple[float, ...] | None]]:
    """The first training records, shard by shard, to be looked at.

    Args:
        data_dir: folder of the records.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        count: how many, at most.

    Returns:
        List of (JPEG bytes, words of the class, box), the box as (xmin, ymin, xmax, ymax) in [0, 1]
        or None.

    Raises:
        DatasetError: a shard is missing or damaged, or the records are ImageNet's.
    """
    if manifest["dataset"] == "imagenet":
        raise DatasetError(
            f"{data_dir} is an index of ImageNet's records, whose images have all sizes; give the "
            "folder of other records."
        )
    found = []
    shards = map(tfrecord.read_records, _shards(data_dir, manifest, "train"))
    records = itertools.chain.from_iterable(shards)
    for example in itertools.islice(_parsed(data_dir, records), count):
        edges = [example.features.feature[edge].float_list.value for edge in EDGES]
        box = tuple(values[0] for values in edges) if edges[0] else None
        found.append((_bytes(example, "image/encoded"), manifest["words"][_label(example)], box))
    return found


def _parsed(data_dir: str | os.PathLike, records: Iterable[bytes]) -> Iterator[tfrecord.Example]:
    try:
        yield from map(tfrecord.Example.FromString, records)
    except (tfrecord.DamagedRecord, DecodeError, FileNotFoundError) as error:
        raise _unusable(data_dir, error) from error


def _shards(data_dir: str | os.PathLike, manifest: Manifest, prefix: str) -> list[Path]:
    names = sorted(name for name in manifest["shards"] if name.startswith(prefix))
    return [Path(data_dir, name) for name in names]


def _bytes(example: Any, key: str) -> bytes:
    return example.features.feature[key].bytes_list.value[0]


def _label(example: Any) -> int:
    return example.features.feature["image/class/label"].int64_list.value[0] - 1


def _unusable(data_dir: str | os.PathLike, reason: object) -> DatasetError:
    return DatasetError(
        f"The records in {data_dir} cannot be used: {reason}. "
        f"Delete that folder, then {MAKE_AGAIN}."
    )


def _decoded_folder(data_dir: Path, manifest: Manifest, prefix: str) -> Path:
    """The folder with the arrays of a manifest, those of `prefix` undamaged."""
    digest = manifest_sha256(manifest)
    own = data_dir / DECODED
    elsewhere = Path(DOWNLOAD_CACHE).expanduser() / f"fishnet-{DECODED}-{digest[:16]}"
    for folder in (own, elsewhere):
        if _is_whole(folder, digest, prefix):
            return folder
    for folder in (own, elsewhere):
        try:
            _decode(data_dir, manifest, prefix, folder)
            return folder
        except OSError as error:
            if folder is elsewhere or error.errno not in READ_ONLY:
                advice = write_advice(error.errno, "choose another data_dir")
                raise DatasetError(
                    f"Writing decoded images to {folder} failed ({error}); {advice}."
                ) from error
        print(f"{data_dir} cannot be written: its images are decoded into {elsewhere}.")
    raise AssertionError


def _is_whole(folder: Path, digest: str, prefix: str) -> bool:
    """Whether a folder has the arrays of the manifest of that digest, undamaged."""
    try:
        index = json.loads((folder / INDEX).read_text())
        files = [name for name in index["sha256"] if name.startswith(prefix)]
        return index["manifest_sha256"] == digest and all(
            file_sha256(folder / name) == index["sha256"][name] for name in files
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _decode(data_dir: Path, manifest: Manifest, prefix: str, folder: Path) -> None:
    """Decodes all records into a folder; what is half done is never taken for whole.

    Waits if another process is already decoding them.
    """
    digest = manifest_sha256(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock") as without_locks:
        if _is_whole(folder, digest, prefix):
            return
        alone = not without_locks and not is_mounted(folder)
        number = sum(manifest["counts"][name] for name in PREFIXES)
        values = 4 if manifest["dataset"] == "tiny-shapes" else 3  # a pixel; with its mask
        needed = number * values * manifest["image_size"] ** 2
        check_disk(folder, needed, "choose another data_dir")
        with (
            unfinished(folder, 0 if alone else A_DAY) as scratch,
            Bar(total=number, desc="Decoding", unit=" images") as progress,
        ):
            for name in PREFIXES:
                _write_arrays(data_dir, manifest, name, scratch, progress)
            _publish(scratch, folder, digest)


def _publish(built: Path, folder: Path, digest: str) -> None:
    """Moves finished arrays to their folder, then writes its index."""
    sums = {file.name: file_sha256(file) for file in sorted(built.iterdir())}
    for old in folder.glob("*.npy"):
        if old.name not in sums:
            old.unlink()
    for name in sums:
        (built / name).replace(folder / name)
    with replacing(folder / INDEX, "w") as file:
        json.dump({"manifest_sha256": digest, "sha256": sums}, file, indent=1)


def _write_arrays(
    data_dir: Path, manifest: Manifest, prefix: str, folder: Path, progress: Bar
) -> None:
    number, size = manifest["counts"][prefix], manifest["image_size"]
    held_out = set(manifest["holdout"])
    labels, boxes, held, masks = [], [], [], []
    with (folder / f"{prefix}-images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (number, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for example in read_examples(data_dir, manifest, prefix):
            feature = example.features.feature
            name = _bytes(example, "image/filename").decode()
            try:
                image = _decode_image(_bytes(example, "image/encoded"), "JPEG", size)
                masks += [
                    np.asarray(_decode_image(data, "PNG", size))
                    for data in feature[MASK].bytes_list.value
                ]
            except (OSError, SyntaxError, ValueError, IndexError) as error:
                raise _unusable(data_dir, f"{name} cannot be decoded ({error})") from error
            file.write(np.asarray(image.convert("RGB")).tobytes())
            edges = [feature[edge].float_list.value for edge in EDGES]
            boxes.append([e[0] for e in edges] if len(edges[0]) == 1 else [np.nan] * 4)
            labels.append(_label(example))
            held.append(name in held_out)
            progress.update()
    if not all(0 <= label < len(manifest["classes"]) for label in labels):
        classes = len(manifest["classes"])
        raise _unusable(data_dir, f"a label is outside the {classes} classes of the manifest")
    if len(labels) != number:
        raise _unusable(data_dir, f"{len(labels)} {prefix} images of the manifest's {number}")
    arrays = {"labels": np.array(labels, np.int32), "boxes": np.array(boxes, np.float32)}
    arrays["held_out"] = np.array(held, bool)
    if len(masks) == number:
        arrays["masks"] = np.stack(masks)
    for array_name, array in arrays.items():
        np.save(folder / f"{prefix}-{array_name}.npy", array)


def _decode_image(data: bytes, kind: str, size: int) -> Image.Image:
    """Decodes an image; Pillow's pixels of a JPEG are TensorFlow's with INTEGER_ACCURATE."""
    image = Image.open(io.BytesIO(data), formats=(kind,))
    if image.size != (size, size):
        raise ValueError(f"it has {image.width}x{image.height} pixels")
    image.load()
    return image
