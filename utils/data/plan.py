"""The plan of a run's batches: which images each holds, and how they are augmented.

The plan of a step is a function of (seed, epoch, step) alone, so a run that is interrupted and
continued sees the same batches as one that is not. `utils.data.pipeline` carries it out.
"""

import functools
import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from utils.data import augmentation
from utils.data.imagenet.crops import draw_crops_and_colors
from utils.data.imagenet.records import RecordFiles
from utils.data.manifest import (
    ORDERS,
    SPLITS,
    TASKS,
    Manifest,
    evaluation_size,
    steps_per_epoch,
    training_size,
)
from utils.data.read_records import Arrays
from utils.fields import check_choice

Images = Arrays | RecordFiles
CLASS_WINDOW = 1000  # images among which each next one is drawn, where classes come one by one
BLANK = -1  # the row of no image
_OF_RECORD_FILES = {"task": "classification", "record_order": "shuffled"}


@dataclass(frozen=True)
class Source:
    """What a run reads.

    Raises:
        ValueError: unknown split, order or task.
    """

    data_dir: str | os.PathLike  # folder of the records
    manifest: Manifest  # what `utils.data.manifest.load_manifest` returns for it
    batch_size: int = 256  # images per batch
    split: str = "val"  # to report on; "holdout" leaves its images out of training
    task: str = "classification"  # what the targets are, see `read`
    fraction: float = 1.0  # of the training images, the same ones in every epoch
    record_order: str = "shuffled"  # or "classes": one class after another
    augment: bool = False  # whether training images are cropped and flipped at random
    crop_area: float = 1.0  # where they are; see `Recipe`
    flip: str = "random"  # likewise; or "alternating": each one in every second epoch
    cutmix: float = 0.0  # share of the training images that are mixed with another one
    seed: int = 0  # with the epoch and the step, all that order and augmentation depend on
    # By prefix, what is open: mapped again, a file would count twice in the process' memory.
    opened: dict[str, Images] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice("split", self.split, SPLITS)
        check_choice("record_order", self.record_order, ORDERS)
        check_choice("task", self.task, TASKS)
        asked = {"task": self.task, "record_order": self.record_order}
        if self.manifest.get("dataset") == "imagenet" and asked != _OF_RECORD_FILES:
            raise ValueError(
                "ImageNet is for classification, with record_order shuffled. Received: "
                + ", ".join(f"{name}={value!r}" for name, value in asked.items())
            )

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; a ValueError if a batch is larger than the data."""
        return steps_per_epoch(self.manifest, self.split, self.batch_size, self.fraction)


class Step(NamedTuple):
    """The plan of one batch."""

    rows: np.ndarray  # int (batch,): of the `Arrays`; `BLANK` is a black image
    # How they are augmented; all of it has the images last. None: that is not done.
    # Of `draw_crops_and_flips`, `draw_resized_crops` or ImageNet's `draw_crops_and_colors`.
    crops: np.ndarray | None = None
    flipped: np.ndarray | None = None  # bool (batch,)
    cuts: np.ndarray | None = None  # of `draw_cuts`

    def part(self, own: slice) -> "Step":
        """The plan of some of its images."""
        crops, cuts = (None if x is None else x[:, own] for x in (self.crops, self.cuts))
        flipped = None if self.flipped is None else self.flipped[own]
        return Step(self.rows[own], crops, flipped, cuts)


class TrainingPlan:
    """The steps of a training, epoch after epoch.

    Every epoch has a permutation of all images of its own, whose rest that fills no batch is left
    out; for ImageNet see `RecordFiles.order`. The numbers are those of `RandomState`, which NumPy
    promises not to change.

    Where flips alternate, half of the images, drawn once, are flipped in the first epoch, the
    others in the second, and so on: two epochs show both sides of every image.

    Source of alternating flips: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
    (arXiv 2404.00498), and github.com/KellerJordan/cifar10-airbench.

    Args:
        source: what is read.
        arrays: of the training set.
        epochs: epoch to stop before.
        start: steps that are done.
        hosts: that share each batch.
    """

    def __init__(
        self, source: Source, arrays: Images, epochs: int, start: int = 0, hosts: int = 1
    ) -> None:
        self.source, self.start, self.stop = source, start, epochs * source.steps
        self.arrays, self.hosts = arrays, hosts
        self.rows = trained_rows(source, arrays)
        self.ranks: np.ndarray | None = None
        if isinstance(arrays, Arrays) and source.record_order == "classes":
            by_class = np.argsort(arrays.labels[self.rows], kind="stable")
            self.ranks = np.argsort(by_class)
        self.flipped_first = self._random().randint(2, size=_count(arrays), dtype=bool)
        self.order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Step:
        if not 0 <= index < len(self):
            raise IndexError(index)
        epoch, step = divmod(self.start + index, self.source.steps)
        size = self.source.batch_size
        rows = self.order(epoch)[step * size : (step + 1) * size]
        if not self.source.augment:
            return Step(rows)
        random = self._random(epoch, step)
        side, least = self.source.manifest["image_size"], self.source.crop_area
        if isinstance(self.arrays, RecordFiles):
            drawn, flipped = draw_crops_and_colors(size, random)
        elif least < 1:
            drawn, flipped = augmentation.draw_resized_crops(size, side, least, random)
        else:
            drawn, flipped = augmentation.draw_crops_and_flips(size, side, random)
        if self.source.flip == "alternating":
            flipped = self.flipped_first[rows] ^ bool(epoch % 2)
        mixed = self.source.cutmix
        cuts = augmentation.draw_cuts(size, side, mixed, random) if mixed else None
        return Step(rows, drawn, flipped, cuts)

    def _random(self, *key: int) -> np.random.RandomState:
        return np.random.RandomState(
            np.random.Philox(np.random.SeedSequence(self.source.seed, spawn_key=key))
        )

    def _draw_order(self, epoch: int) -> np.ndarray:
        random = self._random(epoch)
        if isinstance(self.arrays, RecordFiles):
            steps, size = self.source.steps, self.source.batch_size
            return self.arrays.order(self.rows, random, steps, size, self.hosts)
        if self.ranks is None:
            return random.permutation(self.rows)
        places = self.ranks + random.uniform(0, CLASS_WINDOW, len(self.ranks))
        return self.rows[np.argsort(places, kind="stable")]


def _count(arrays: Images) -> int:
    return len(arrays.labels if isinstance(arrays, Arrays) else arrays)


def evaluated_rows(manifest: Manifest, split: str, arrays: Images) -> np.ndarray:
    """The rows of the images that a run reports on, in the order of the records."""
    evaluation_size(manifest, split)  # refuses a split without images
    if split == "holdout" and isinstance(arrays, Arrays):
        return np.flatnonzero(arrays.held_out)
    return np.arange(_count(arrays))


def trained_rows(source: Source, arrays: Images) -> np.ndarray:
    """The rows of the images that a run trains on, in the order of the records."""
    used = np.ones(_count(arrays), bool)
    if source.split == "holdout" and isinstance(arrays, Arrays):
        used = ~arrays.held_out
    number = training_size(source.manifest, source.split, source.fraction)
    return np.flatnonzero(used)[:number]  # the records are shuffled: the first are a fair sample
