"""tf.data input pipelines over the TFRecords that `utils.data.write_records` writes.

Every order and every random number below is a function of (seed, epoch, step) alone, so a run that
is cut off and continued sees the very batches it would have seen.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from utils.data.archives import DatasetError
from utils.data.augmentation import crop_and_flip, crop_and_flip_boxes, draw_crops_and_flips
from utils.data.manifest import (
    ORDERS,
    SHUFFLE_WINDOW,
    Manifest,
    check_choice,
    evaluation_size,
    steps_per_epoch,
    training_size,
)
from utils.data.read_records import evaluated, read_records
from utils.data.write_records import EDGES, MASK

TRAIN_IMAGES = 10_000  # of those trained on that are evaluated
Batch = tuple[tf.Tensor, tf.Tensor]  # images and targets
# An error of the input pipeline and not of the network, in a graph or not.
_FROM_PIPELINE = re.compile(
    r"Error in user-defined function passed|\{\{node [^}]*IteratorGetNext|\[Op:\w*IteratorGetNext"
)


def training_batches(
    data_dir: str | os.PathLike,
    manifest: Manifest,
    *,
    batch_size: int,
    epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    seed: int = 0,
    split: str = "val",
    fraction: float = 1.0,
    record_order: str = "shuffled",
    shuffle_window: int = SHUFFLE_WINDOW,
    augment: bool = False,
    task: str = "classification",
) -> tf.data.Dataset:
    """Batches of several training epochs, one after another.

    Every epoch has `manifest images // batch_size` batches, in an order of its own; the images left
    over differ from epoch to epoch.

    Args:
        data_dir: Folder with the TFRecord shards.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        batch_size: Images per batch, static in the shape of the result.
        epochs: Epoch to stop before.
        first_epoch: First epoch to yield, counted from 0.
        first_step: Batches of that epoch to leave out. The images are not kept then: this is for
            the rest of an epoch that was cut off.
        seed: With the epoch and the step, all that order and augmentation depend on.
        split: `"val"` to train on all of train, `"holdout"` to leave the hold-out images aside.
        fraction: Fraction of these images to use, the same ones in every epoch.
        record_order: "classes" to read one class after another, as from records that were never
            shuffled.
        shuffle_window: Images among which each next one is drawn.
        augment: Whether to crop and flip images at random (see `utils.data.augmentation`), and
            their boxes and masks with them.
        task: What the targets are, see below.

    Returns:
        `tf.data.Dataset` of (uint8 images (batch, height, width, 3), targets): for classification
        int32 labels (batch,); for localization float32 (batch, 5), label and box as xmin, ymin,
        xmax, ymax in [0, 1]; for segmentation uint8 masks (batch, height, width).

    Raises:
        ValueError: Unknown split, or a batch larger than the data.
    """
    steps = steps_per_epoch(manifest, split, batch_size, fraction)
    images = _decoded(data_dir, manifest, "train", False if split == "holdout" else None, task)
    if fraction < 1:  # the records are shuffled, so the first are a fair sample
        images = images.take(training_size(manifest, split, fraction))
    images = _in_order(images, record_order)
    if not first_step:
        images = images.cache()

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        batches = _shuffled(images, shuffle_window, epoch_seed).batch(
            batch_size, drop_remainder=True
        )
        done = tf.where(epoch == first_epoch, first_step, 0)
        batches = batches.enumerate().skip(tf.cast(done, tf.int64))

        if not augment:
            return batches.map(lambda step, batch: batch)

        def augmented(step: tf.Tensor, batch: Batch) -> Batch:
            step_seed = tf.random.experimental.stateless_fold_in(epoch_seed, step, alg="philox")
            drawn = draw_crops_and_flips(batch_size, step_seed)
            targets = _augmented_targets(batch[1], *drawn, manifest["image_size"])
            return crop_and_flip(batch[0], *drawn), targets

        return batches.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    return _prefetched(batches, (epochs - first_epoch) * steps - first_step)


def _augmented_targets(
    targets: tf.Tensor, offsets: tf.Tensor, flipped: tf.Tensor, image_size: int
) -> tf.Tensor:
    """Targets of cropped and flipped images; labels stay what they are."""
    if targets.shape.rank == 1:
        return targets
    if targets.shape.rank == 3:
        return crop_and_flip(targets, offsets, flipped)
    boxes = crop_and_flip_boxes(targets[:, 1:], offsets, flipped, image_size)
    return tf.concat([targets[:, :1], boxes], axis=1)


def evaluation_batches(
    data_dir: str | os.PathLike,
    manifest: Manifest,
    *,
    batch_size: int,
    split: str = "val",
    record_order: str = "shuffled",
    task: str = "classification",
    on_train: bool = False,
    fraction: float = 1.0,
    whole_batches: bool = False,
) -> tf.data.Dataset:
    """The split that a run reports on, in the order of the records.

    Args:
        data_dir: Folder with the TFRecord shards.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        batch_size: Images per batch; the last one may be smaller.
        split: `"val"` for the validation records, `"holdout"` for the images of train that the
            manifest lists.
        record_order: "classes" for one class after another.
        task: What the targets are, see `training_batches`.
        on_train: Whether to read images that the run trains on in place of the split: the first
            10,000 of them, as they are, the same ones every time.
        fraction: Of the training images that the run trains on.
        whole_batches: Whether to fill up the last batch with blank images, so that several devices
            can share every batch.

    Returns:
        `tf.data.Dataset` of (uint8 images (batch, height, width, 3), targets); with
        `whole_batches` also of float32 weights (batch,), 0 for the blank ones.
    """
    which, size = evaluated(split), evaluation_size(manifest, split)
    if on_train:
        which = ("train", False if split == "holdout" else None)
        size = min(TRAIN_IMAGES, training_size(manifest, split, fraction))
    images = _decoded(data_dir, manifest, *which, task).take(size)
    batches = _in_order(images, record_order).cache().batch(batch_size)
    if whole_batches:
        batches = batches.map(lambda x, y: _filled_up(x, y, batch_size))
    return _prefetched(batches, -(-size // batch_size))


def _filled_up(images: tf.Tensor, targets: tf.Tensor, size: int) -> tuple[tf.Tensor, ...]:
    """The batch with blank images behind it, and weights."""
    missing = [[0, size - tf.shape(images)[0]]]
    weights = tf.pad(tf.ones_like(images[:, 0, 0, 0], tf.float32), missing)
    filled = [tf.pad(x, missing + [[0, 0]] * (x.shape.rank - 1)) for x in (images, targets)]
    return tuple(tf.ensure_shape(x, (size, *x.shape[1:])) for x in (*filled, weights))


@contextlib.contextmanager
def reading_records(data_dir: str | os.PathLike) -> Iterator[None]:
    """Turns what TensorFlow says of bad records into an error that names the folder and a remedy.

    Errors of anything but the input pipeline pass as they are.

    Args:
        data_dir: Folder of the records.

    Raises:
        DatasetError: In the block, a shard was cut off or missing, an image could not be decoded,
            or a label was out of range.
    """
    bad = tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError
    try:
        yield
    except bad as error:
        if not _FROM_PIPELINE.search(error.message):
            raise
        said = [line for line in error.message.splitlines() if line.strip(" \t[")]
        reason = next(line for line in reversed(said) if not line.strip().startswith("[["))
        raise DatasetError(
            f"The records in {data_dir} cannot be used: {reason} "
            "Delete that folder and run notebooks/01_data_conversion.ipynb."
        ) from error


def encoded_images(
    data_dir: str | os.PathLike, manifest: Manifest, *, split: str = "val"
) -> list[bytes]:
    """The JPEG bytes of the images of `evaluation_batches`, in the same order.

    Args:
        data_dir: Folder with the TFRecord shards.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        split: `"val"` or `"holdout"`.

    Returns:
        List of bytes.
    """
    records = read_records(data_dir, manifest, *evaluated(split))
    return [record["image/encoded"].numpy() for record in records]


def target_boxes(data_dir: str | os.PathLike, manifest: Manifest, split: str = "val") -> np.ndarray:
    """The boxes of all images.

    Args:
        data_dir: Folder with the TFRecord shards.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        split: `"val"`, `"holdout"`, or `"train"` for all of train.

    Returns:
        float32 (images, 4): xmin, ymin, xmax, ymax in [0, 1], in the order of the records.
    """
    which = ("train", None) if split == "train" else evaluated(split)
    records = read_records(data_dir, manifest, *which, task="localization").batch(1024)
    boxes = [np.concatenate([r[edge] for edge in EDGES], axis=1) for r in records]
    return np.concatenate(boxes)


def _decoded(
    data_dir: str | os.PathLike, manifest: Manifest, prefix: str, held_out: bool | None, task: str
) -> tf.data.Dataset:
    """The records as uint8 images (height, width, 3) and targets."""
    size, classes = manifest["image_size"], len(manifest["classes"])

    def decode(record: dict[str, tf.Tensor]) -> Batch:
        label = tf.cast(record["image/class/label"], tf.int32) - 1
        in_range = tf.debugging.assert_less(
            label, classes, f"a label is outside the {classes} classes of the manifest"
        )
        with tf.control_dependencies([in_range]):
            encoded = record["image/encoded"]
            image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        image = tf.ensure_shape(image, (size, size, 3))
        if task == "localization":
            edges = [record[edge] for edge in EDGES]
            return image, tf.concat([tf.cast(label, tf.float32)[None], *edges], axis=0)
        if task == "segmentation":
            mask = tf.io.decode_png(record[MASK], channels=1)
            return image, tf.ensure_shape(mask, (size, size, 1))[..., 0]
        return image, label

    return read_records(data_dir, manifest, prefix, held_out, task).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _in_order(images: tf.data.Dataset, record_order: str) -> tf.data.Dataset:
    check_choice("record_order", record_order, ORDERS)
    if record_order == "shuffled":  # as the records are
        return images
    everything = 2**40  # images of one class, gathered before the first of them comes out
    return images.group_by_window(
        lambda _, label: tf.cast(label, tf.int64), lambda _, group: group, everything
    )


def _prefetched(batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Prefetches, and tells Keras how many batches there are."""
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return without_tuner(batches.prefetch(tf.data.AUTOTUNE))


def without_tuner(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves parallelism and buffers at their defaults, one thread for each core.

    tf.data's tuner sleeps twice as long each time (10 ms, 20 ms, ...), and a finished iterator is
    not freed before it wakes: an evaluation of 3 seconds would take 5.1.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def _shuffled(images: tf.data.Dataset, window: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffles with a seed (2,) that may be a tensor.

    `Dataset.shuffle` would mix in TensorFlow's global seed, and so the process's state.
    """
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(images),
        buffer_size=window,
        seed=seed[0],
        seed2=seed[1] + 1,  # (0, 0) would stand for a random seed
        output_types=[spec.dtype for spec in images.element_spec],
        output_shapes=[spec.shape for spec in images.element_spec],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, images.element_spec)
