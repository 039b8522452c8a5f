"""Tiny ImageNet as Hugging Face's hub has it (zh-plus/tiny-imagenet): parquet files of JPEG bytes.

There are no file names in it, no boxes and no words. Names, and with them the order and the
hold-out, come from the official archive: `official.npz` has the CRC-32 of each of its images. So
images, labels and hold-out are those of the official archive, while the records lack the boxes and
have other digests.

Source: huggingface.co/datasets/zh-plus/tiny-imagenet (columns, order of the classes)
"""

import functools
import json
import posixpath
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.archives import Archive, DatasetError, Member
from utils.data.datasets.tiny_imagenet import is_official

ENDING = ".parquet"
SPLITS = ("train", "val")  # what the path of a file begins with, or its name
OFFICIAL = Path(__file__).with_name("official.npz")

Names = dict[tuple[str, str, int], list[str]]  # of files, by split, wnid and CRC-32


def unpack_parquet(source: Archive) -> Archive:
    """Gives the images of parquet files as an archive in Tiny ImageNet's layout.

    Args:
        source: the open archive, or folder, with the parquet files.

    Returns:
        An archive in memory, with the validation images sorted by class.

    Raises:
        DatasetError: pyarrow is not installed, or the files are not as those on the hub.
    """
    members: list[Member] = []
    wnids: list[str] = []
    made_up = 0
    for file, split, table in _tables(source):
        wnids = _class_names(source, table)
        official = is_official(wnids)
        names = _official_names() if official else {}
        for row, (label, image) in enumerate(zip(table["label"], table["image"], strict=True)):
            place = f"{source.path}: {file}, row {row}"
            wnid = _class_of(label.as_py(), wnids, place)
            data = image["bytes"].as_py()
            if data is None:
                raise DatasetError(
                    f"{place}: there are no bytes of an image; pass the files as they are on the "
                    "hub."
                )
            name = posixpath.basename(image["path"].as_py() or "")
            known = names.get((split, wnid, zlib.crc32(data)))
            made_up += official and not known
            # Official names have an underscore.
            name = known.pop(0) if known else name or f"{split}-{len(members)}.JPEG"
            members.append(Member(f"{split}/{wnid}/images/{name}", len(data), data))
    if made_up:
        print(
            f"{made_up} images are not those of the official archive, byte for byte: their names, "
            "and with them the hold-out and the order, are not the official ones."
        )
    words = _official_words() if is_official(wnids) else {}
    for name, text in (
        ("wnids.txt", "".join(f"{wnid}\n" for wnid in wnids)),
        ("words.txt", "".join(f"{wnid}\t{word}\n" for wnid, word in words.items())),
    ):
        members.append(Member(name, len(text), text.encode()))
    return Archive(source.path, members, bytes, "wnids.txt")


def _tables(source: Archive) -> Iterator[tuple[str, str, Any]]:
    """Yields name, split and table of each file."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(
            f"{source.path} holds parquet files, which are read by pyarrow: pip install pyarrow"
        ) from error
    files = [name for name in source.names() if name.endswith(ENDING)]
    found = {name: split for name in files if (split := _split_of(name))}
    for split in SPLITS:
        if split not in found.values():
            raise DatasetError(
                f"{source.path}: no parquet file of {split} among {', '.join(files) or 'none'}; "
                "pass the folder data/ of the dataset."
            )
    for name, split in found.items():
        buffer = pyarrow.BufferReader(source.read(name))
        try:
            table = pyarrow.parquet.read_table(buffer, columns=["image", "label"])
        except (pyarrow.ArrowException, KeyError, OSError) as error:
            raise DatasetError(
                f"{source.path}: {name} cannot be read ({error}); download it again."
            ) from error
        yield name, split, table.combine_chunks()


def _split_of(name: str) -> str | None:
    parts = name.lower().split("/")
    return next((s for s in SPLITS for p in parts if p.startswith(s)), None)


def _class_names(source: Archive, table: Any) -> list[str]:
    """The names of the labels, as the library `datasets` keeps them in a file's metadata."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{source.path}: the parquet files do not name their classes; pass those of "
            "zh-plus/tiny-imagenet as they are."
        ) from error


def _class_of(label: int | None, wnids: list[str], place: str) -> str:
    if label is None or not 0 <= label < len(wnids):
        raise DatasetError(
            f"{place}: the label must be from 0 to {len(wnids) - 1}. Received: {label}"
        )
    return wnids[label]


@functools.cache
def _official() -> dict[str, np.ndarray]:
    with np.load(OFFICIAL) as file:
        return dict(file)


def _official_words() -> dict[str, str]:
    held = _official()
    return dict(zip(held["wnids"].tolist(), held["words"].tolist(), strict=True))


def _official_names() -> Names:
    held = _official()
    names: Names = defaultdict(list)
    for wnid, sums in zip(held["wnids"].tolist(), held["train"].tolist(), strict=True):
        for number, crc in enumerate(sums):
            names["train", wnid, crc].append(f"{wnid}_{number}.JPEG")
    for number, (crc, label) in enumerate(zip(held["val"], held["val_labels"], strict=True)):
        names["val", str(held["wnids"][label]), int(crc)].append(f"val_{number}.JPEG")
    return names
