"""Batches, read by index, as a plan (`utils.data.plan`) says: images, targets and crops."""

import os
from typing import Any

import keras
import numpy as np

from utils.data.archives import DatasetError
from utils.data.augmentation import (
    crop_and_flip,
    crop_and_flip_boxes,
    crop_and_resize,
    mix_images,
    mix_labels,
)
from utils.data.imagenet.records import RecordFiles
from utils.data.manifest import SPLITS, Manifest
from utils.data.plan import (
    BLANK,
    Images,
    Source,
    Step,
    TrainingPlan,
    evaluated_rows,
    trained_rows,
)
from utils.data.read_records import Arrays, open_arrays
from utils.devices import Devices
from utils.fields import check_choice

TRAIN_IMAGES = 10_000  # of those trained on that are evaluated
ALONE = Devices()


class Batches(keras.utils.PyDataset):
    """The batches of a plan, as NumPy arrays; see `read`.

    Args:
        source: what is read.
        arrays: that the rows of the plan are of.
        plan: a `Step` for each batch.
        devices: that share each batch; each process reads its own part of it.
        weighted: whether there are weights too, float32 (batch,), 0 for blank images.
    """

    def __init__(
        self,
        source: Source,
        arrays: Images,
        plan: TrainingPlan | list[Step],
        devices: Devices,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.task, self.arrays, self.plan, self.weighted = source.task, arrays, plan, weighted
        self.process, self.processes = devices.process, devices.processes

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        step = self.plan[index]
        size = len(step.rows) // self.processes
        step = step.part(slice(self.process * size, (self.process + 1) * size))
        weights = [(step.rows != BLANK).astype(np.float32)] if self.weighted else []
        return (*read(self.arrays, step, self.task), *weights)


def read(arrays: Images, step: Step, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Carries out the plan of a step.

    Args:
        arrays: that its rows are of.
        step: the plan.
        task: what the targets are.

    Returns:
        (uint8 images (batch, height, width, 3), targets): for classification int32 labels (batch,),
        or those of `mix_labels` where images are mixed; for localization float32 (batch, 5), label
        and box as xmin, ymin, xmax, ymax in [0, 1]; for segmentation uint8 masks (batch, height,
        width).
    """
    images, targets = _read_each(arrays, step, task)
    if step.cuts is None:
        return images, targets
    return mix_images(images, step.cuts), mix_labels(targets, step.cuts, images.shape[1])


def _read_each(arrays: Images, step: Step, task: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(arrays, RecordFiles):
        return arrays.read(step.rows, step.crops, step.flipped)
    images = arrays.images[step.rows]
    if task == "classification":
        targets = arrays.labels[step.rows]
    elif task == "localization":
        labels = arrays.labels[step.rows, None].astype(np.float32)
        targets = np.concatenate([labels, arrays.boxes[step.rows]], axis=1)
    else:
        targets = arrays.masks[step.rows]
    images[step.rows == BLANK] = 0
    targets[step.rows == BLANK] = 0
    if step.flipped is None:
        return images, targets
    if step.crops is None:
        offsets = np.zeros((2, len(images)), np.int32)
    elif len(step.crops) == 4:  # they are enlarged, in classification alone
        return crop_and_resize(images, step.crops, step.flipped), targets
    else:
        offsets = step.crops
    if task == "localization":
        targets[:, 1:] = crop_and_flip_boxes(targets[:, 1:], offsets, step.flipped, images.shape[1])
    elif task == "segmentation":
        targets = crop_and_flip(targets, offsets, step.flipped)
    return crop_and_flip(images, offsets, step.flipped), targets


def training_batches(
    source: Source, *, epochs: int, start: int = 0, devices: Devices = ALONE
) -> Batches:
    """Batches of several training epochs, one after another.

    Args:
        source: what is read.
        epochs: epoch to stop before.
        start: steps to leave out, those of earlier epochs among them.
        devices: that share each batch.

    Returns:
        `Batches`, `source.steps` an epoch.

    Raises:
        DatasetError: the records are damaged, or their images lack what the task needs.
    """
    arrays = _open(source, "train")
    plan = TrainingPlan(source, arrays, epochs, start, devices.processes)
    return Batches(source, arrays, plan, devices)


def evaluation_batches(
    source: Source,
    *,
    on_train: bool = False,
    flipped: bool = False,
    by_class: bool = False,
    devices: Devices = ALONE,
) -> Batches:
    """The split that a run reports on, in the order of the records.

    Args:
        source: what is read.
        on_train: whether to read images that the run trains on in place of the split: the first
            10,000 of them, as they are, the same ones every time.
        flipped: whether to flip all images.
        by_class: whether to read one class after another; not of ImageNet.
        devices: that share each batch. For several of them, blank images fill up the last batch,
            which is smaller otherwise, and there are weights.

    Returns:
        `Batches`.

    Raises:
        ValueError: the split has no images.
        DatasetError: the records are damaged, or their images lack what the task needs.
    """
    prefix = "train" if on_train else _prefix(source.split)
    arrays = _open(source, prefix)
    if on_train:
        rows = trained_rows(source, arrays)[:TRAIN_IMAGES]
    else:
        rows = evaluated_rows(source.manifest, source.split, arrays)
    if isinstance(arrays, Arrays) and by_class:
        rows = rows[np.argsort(arrays.labels[rows], kind="stable")]
    whole = devices.count > 1
    if whole:
        rows = np.pad(rows, (0, -len(rows) % source.batch_size), constant_values=BLANK)
    parts = np.split(rows, range(source.batch_size, len(rows), source.batch_size))
    plan = [Step(part, flipped=np.ones(len(part), bool) if flipped else None) for part in parts]
    return Batches(source, arrays, plan, devices, weighted=whole)


def feed(batches: Batches) -> Any:
    """Turns batches into what `fit`, `evaluate` and `predict` take.

    Args:
        batches: any batches.

    Returns:
        On TensorFlow a `tf.data.Dataset` of static shapes that a thread reads ahead; elsewhere
        the batches themselves.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    first, last = batches[0], batches[len(batches) - 1]
    size = len(first[0]) if len(first[0]) == len(last[0]) else None
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tuple(tf.TensorSpec((size, *x.shape[1:]), x.dtype) for x in first),
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return without_tuner(dataset.prefetch(2))


def without_tuner(dataset: Any) -> Any:
    """Turns off tf.data's autotuner, which Keras would leave on.

    It sleeps twice as long each time (10 ms, 20 ms, ...), and a finished iterator is not freed
    before it wakes: an evaluation of 3 seconds would take 5.1.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def target_boxes(data_dir: str | os.PathLike, manifest: Manifest, split: str = "val") -> np.ndarray:
    """The boxes of all images.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: `"val"`, `"holdout"`, or `"train"` for all training images.

    Returns:
        float32 (images, 4): xmin, ymin, xmax, ymax in [0, 1], in the order of the records.
    """
    source = Source(data_dir, manifest, task="localization")
    arrays = _open(source, "train" if split == "train" else _prefix(split))
    assert isinstance(arrays, Arrays)  # `Source` refuses others
    if split == "train":
        return arrays.boxes
    return arrays.boxes[evaluated_rows(manifest, split, arrays)]


def _open(source: Source, prefix: str) -> Images:
    """The images of a source, opened once."""
    if prefix not in source.opened:
        source.opened[prefix] = _open_fit(source, prefix)
    return source.opened[prefix]


def _open_fit(source: Source, prefix: str) -> Images:
    """Opens images; refuses them if they lack what the task needs, before any training."""
    if source.manifest["dataset"] == "imagenet":
        return RecordFiles(source.data_dir, source.manifest, prefix)
    arrays = open_arrays(source.data_dir, source.manifest, prefix)
    unfit, target = 0, "box"
    if source.task == "localization":
        unfit = int(np.isnan(arrays.boxes[:, 0]).sum())
    elif source.task == "segmentation" and arrays.masks is None:
        unfit, target = len(arrays.labels), "mask"
    if unfit:
        raise DatasetError(
            f"{source.data_dir}: {unfit} {prefix} images have no {target}, or several; task "
            f"{source.task} needs one of each image. Choose another task or other records."
        )
    return arrays


def _prefix(split: str) -> str:
    check_choice("split", split, SPLITS)
    return "train" if split == "holdout" else "validation"
