"""ImageNet where it is: its TFRecords are indexed, not copied, and decoded as they are read.

A record is found by its place in its file, so that any of them can be read at any time: an order is
a permutation of rows, as it is for decoded images (`utils.data.plan`), and a training goes on
in the middle of an epoch without reading what it has seen.
"""

import functools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from utils import tfrecord
from utils.data.archives import DatasetError
from utils.data.imagenet.crops import augmented, center_crop, decode, opencv
from utils.data.manifest import Manifest
from utils.environment import usable_cores
from utils.files import file_sha256

INDEX = "index.npz"  # beside the manifest
WINDOW = 16_384  # images among which each next one is drawn
INTERLEAVED = 16  # files that are read at a time


@dataclass(frozen=True)
class RecordLayout:
    """How somebody writes ImageNet as TFRecords."""

    files: str  # regular expression, of the names, with groups number and total
    image: str  # feature with the JPEG bytes
    label: str  # feature with the label
    first: int  # label of the first class


# Source: tensorflow/tpu, tools/datasets/imagenet_to_gcs.py; tensorflow-datasets, imagenet2012.
LAYOUTS = (
    RecordLayout(
        r"{split}-(?P<number>\d+)-of-(?P<total>\d+)", "image/encoded", "image/class/label", 1
    ),
    RecordLayout(r".+-{split}\.tfrecord-(?P<number>\d+)-of-(?P<total>\d+)", "image", "label", 0),
)


def label_of(example: Any, layout: RecordLayout, classes: int) -> int:
    """The label of a record, from 0.

    Args:
        example: the record.
        layout: of its file.
        classes: how many there are.

    Raises:
        ValueError: there is no such class.
    """
    label = example.features.feature[layout.label].int64_list.value[0]
    if not 0 <= label - layout.first < classes:
        raise ValueError(
            f"a label must be from {layout.first} to {classes - 1 + layout.first}, as there are "
            f"{classes} classes. Received: {label}"
        )
    return label - layout.first


class RecordFiles:
    """The records of the training or validation set, read by row.

    Args:
        data_dir: folder of the manifest and the index.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        prefix: "train" or "validation".

    Raises:
        DatasetError: the index is damaged, or OpenCV is missing.
    """

    def __init__(self, data_dir: str | os.PathLike, manifest: Manifest, prefix: str) -> None:
        opencv()
        path = Path(data_dir, INDEX)
        if not path.is_file() or file_sha256(path) != manifest["index_sha256"]:
            raise DatasetError(f"{path} is missing or damaged; delete {data_dir} and index again.")
        with np.load(path) as index:
            self.places, self.shards = index[f"{prefix}_places"], index[f"{prefix}_shards"]
        layout = LAYOUTS[manifest["layout"]]
        pattern = layout.files.format(split=prefix)
        names = sorted(name for name in manifest["shards"] if re.fullmatch(pattern, name))
        self.paths = [Path(manifest["records"], name) for name in names]
        self.layout, self.classes = layout, len(manifest["classes"])
        self.size = manifest["image_size"]

    def __len__(self) -> int:
        return len(self.shards)

    def order(
        self,
        used: np.ndarray,
        random: np.random.RandomState,
        steps: int,
        batch: int,
        hosts: int = 1,
    ) -> np.ndarray:
        """An epoch: files in random order, some at a time, and records drawn within a window.

        Each host has files of its own, every `hosts`-th, and an equal part of every batch. Where
        its files hold fewer images than others' it reads a few of them twice.

        Args:
            used: the rows to choose from, in their order.
            random: all that the result depends on.
            steps: batches.
            batch: images of a batch.
            hosts: that share it.

        Returns:
            Rows, int (steps * batch,); of each batch the first part is the first host's.

        Raises:
            ValueError: there are fewer files than hosts.
        """
        parts = []
        for host in range(hosts):
            rows = used[self.shards[used] % hosts == host]
            if not len(rows):
                raise ValueError(
                    f"ImageNet must be in as many files as there are hosts, {hosts}, or more. "
                    f"Received: {len(np.unique(self.shards[used]))}"
                )
            places = random.permutation(len(self.paths))[self.shards[rows]]
            within = rows - np.searchsorted(self.shards, self.shards[rows])
            rows = rows[np.lexsort((places, within, places // (INTERLEAVED * hosts)))]
            drawn = np.arange(len(rows)) + random.uniform(0, WINDOW, len(rows))
            rows = rows[np.argsort(drawn, kind="stable")]
            parts.append(np.resize(rows, steps * batch // hosts).reshape(steps, -1))
        return np.concatenate(parts, axis=1).ravel()

    def jpeg(self, row: int) -> tuple[bytes, int]:
        """The encoded image of a row, and its label from 0.

        Raises:
            DatasetError: its record is damaged, or the label out of range.
        """
        path = self.paths[self.shards[row]]
        start, length = map(int, self.places[row])
        try:
            example = tfrecord.Example.FromString(tfrecord.read_at(path, start, length))
            label = label_of(example, self.layout, self.classes)
            return example.features.feature[self.layout.image].bytes_list.value[0], label
        except (OSError, ValueError, DecodeError, IndexError) as error:
            raise DatasetError(f"{path}, record at byte {start}: {error}") from error

    def read(
        self, rows: np.ndarray, crops: np.ndarray | None = None, flipped: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes images on all cores.

        Args:
            rows: int (batch,); a negative one is a black image of label 0.
            crops: of `draw_crops_and_colors`; None takes the center.
            flipped: bool (batch,); None flips none.

        Returns:
            (uint8 (batch, size, size, 3), int32 labels (batch,)).

        Raises:
            DatasetError: a record is damaged.
        """
        images = np.zeros((len(rows), self.size, self.size, 3), np.uint8)
        labels = np.zeros(len(rows), np.int32)

        def fill(index: int) -> None:
            if rows[index] < 0:
                return
            jpeg, labels[index] = self.jpeg(rows[index])
            try:
                image = decode(jpeg)
            except ValueError as error:
                path = self.paths[self.shards[rows[index]]]
                raise DatasetError(f"{path}: {error}") from error
            if crops is None:
                image = center_crop(image, self.size)
            else:
                image = augmented(image, crops[:, index], self.size)
            images[index] = image if flipped is None or not flipped[index] else image[:, ::-1]

        list(_threads().map(fill, range(len(rows))))
        return images, labels


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(usable_cores())


class Thumbnails(Sequence):
    """The central squares of some records' images in the order of the rows, small, as JPEGs.

    Args:
        records: that they are of.
        side: of the square, in pixels.
    """

    def __init__(self, records: RecordFiles, side: int = 96) -> None:
        self.records, self.side = records, side

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: Any) -> bytes:
        cv2 = opencv()
        image = decode(self.records.jpeg(row)[0])
        image = center_crop(image, self.side)
        return cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
