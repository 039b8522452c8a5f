"""tf.data input pipelines over the TFRecords that `utils.data.tfrecords` writes.

Every order and every random number below is a function of (seed, epoch, step) alone, so a run that
is cut off and continued sees the very batches it would have seen.
"""

import contextlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from utils.data.archives import DatasetError
from utils.data.augmentation import draw_moves, move_boxes, move_images
from utils.data.manifest import (
    ORDERS,
    SHUFFLE_WINDOW,
    SPLITS,
    check_choice,
    evaluation_size,
    steps_per_epoch,
    training_size,
)


def training_batches(
    data_dir,
    manifest,
    *,
    batch_size,
    epochs,
    first_epoch=0,
    first_step=0,
    seed=0,
    split="val",
    fraction=1.0,
    record_order="shuffled",
    shuffle_window=SHUFFLE_WINDOW,
    augment=False,
    task="classification",
):
    """Batches of several training epochs, one after another.

    Every epoch has `manifest images // batch_size` batches, in an order of its own; the images left
    over differ from epoch to epoch.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        batch_size: images a batch, static in the shape of the result.
        epochs: epoch to stop before.
        first_epoch: first epoch to yield, counted from 0.
        first_step: batches of that epoch to leave out. The images are not kept then: this is for
            the rest of an epoch that was cut off.
        seed: with the epoch and the step, all that order and augmentation depend on.
        split: `"val"` to train on all of train, `"holdout"` to leave the hold-out images aside.
        fraction: share of these images to use, the same ones in every epoch.
        record_order: "classes" to read one class after another, as from records that were never
            shuffled.
        shuffle_window: images among which each next one is drawn.
        augment: whether to crop and flip images at random (see `utils.data.augmentation`), and
            their boxes and masks with them.
        task: what the targets are, see below.

    Returns:
        `tf.data.Dataset` of (uint8 images (batch, height, width, 3), targets): for classification
        int32 labels (batch,); for localization float32 (batch, 5), label and box as xmin, ymin,
        xmax, ymax in [0, 1]; for segmentation uint8 masks (batch, height, width).

    Raises:
        ValueError: unknown split, or a batch larger than the data.
    """
    steps = steps_per_epoch(manifest, split, batch_size, fraction)
    images = _decoded(data_dir, manifest, "train", False if split == "holdout" else None, task)
    if fraction < 1:  # the records are shuffled, so the first are a fair sample
        images = images.take(training_size(manifest, split, fraction))
    images = _in_order(images, record_order)
    if not first_step:
        images = images.cache()

    def one_epoch(epoch):
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        batches = _shuffled(images, shuffle_window, epoch_seed).batch(
            batch_size, drop_remainder=True
        )
        done = tf.where(epoch == first_epoch, first_step, 0)
        batches = batches.enumerate().skip(tf.cast(done, tf.int64))

        def finished(step, batch):
            if not augment:
                return batch
            step_seed = tf.random.experimental.stateless_fold_in(epoch_seed, step, alg="philox")
            moves = draw_moves(batch_size, step_seed)
            return move_images(batch[0], *moves), _moved(batch[1], moves, manifest["image_size"])

        return batches.map(finished, num_parallel_calls=tf.data.AUTOTUNE)

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    return _prefetched(batches, (epochs - first_epoch) * steps - first_step)


def _moved(targets, moves, image_size):
    """Targets of images that were moved; labels stay what they are."""
    if targets.shape.rank == 1:
        return targets
    if targets.shape.rank == 3:
        return move_images(targets, *moves)
    boxes = move_boxes(targets[:, 1:], *moves, image_size)
    return tf.concat([targets[:, :1], boxes], axis=1)


def evaluation_batches(
    data_dir,
    manifest,
    *,
    batch_size,
    split="val",
    record_order="shuffled",
    task="classification",
    whole_batches=False,
):
    """The split that a run reports on, in the order of the records.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        batch_size: images a batch; the last one may be smaller.
        split: `"val"` for the validation records, `"holdout"` for the images of train that the
            manifest lists.
        record_order: "classes" for one class after another.
        task: what the targets are, see `training_batches`.
        whole_batches: whether to fill up the last batch with blank images, so that several devices
            can share every batch.

    Returns:
        `tf.data.Dataset` of (uint8 images (batch, height, width, 3), targets); with
        `whole_batches` also of float32 weights (batch,), 0 for the blank ones.
    """
    images = _in_order(_decoded(data_dir, manifest, *_evaluated(split), task), record_order)
    batches = images.cache().batch(batch_size)
    if whole_batches:
        batches = batches.map(lambda *batch: _filled_up(*batch, batch_size))
    return _prefetched(batches, -(-evaluation_size(manifest, split) // batch_size))


def _filled_up(images, targets, size):
    missing = [[0, size - tf.shape(images)[0]]]
    weights = tf.pad(tf.ones_like(images[:, 0, 0, 0], tf.float32), missing)
    filled = [tf.pad(x, missing + [[0, 0]] * (x.shape.rank - 1)) for x in (images, targets)]
    return tuple(tf.ensure_shape(x, (size, *x.shape[1:])) for x in (*filled, weights))


@contextlib.contextmanager
def reading_records(data_dir):
    """Turns what TensorFlow says of bad records into an error that names the folder and a remedy.

    Args:
        data_dir: folder with the TFRecord shards.

    Raises:
        utils.data.tfrecords.DatasetError: in the block, a shard was cut off or missing, an image
            could not be decoded, or a label was out of range.
    """
    bad = tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError
    try:
        yield
    except bad as error:
        said = [line for line in error.message.splitlines() if line.strip(" \t[")]
        reason = next(line for line in reversed(said) if not line.strip().startswith("[["))
        raise DatasetError(
            f"The records in {data_dir} cannot be used: {reason} "
            "Delete that folder and run notebooks/01_data_conversion.ipynb."
        ) from error


def encoded_images(data_dir, manifest, *, split="val"):
    """The JPEG bytes of the images of `evaluation_batches`, in the same order.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: `"val"` or `"holdout"`.

    Returns:
        List of bytes.
    """
    records = _records(data_dir, manifest, *_evaluated(split))
    return [record["image/encoded"].numpy() for record in records]


def target_boxes(data_dir, manifest, split="val"):
    """The boxes of all images.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: `"val"`, `"holdout"`, or `"train"` for all of train.

    Returns:
        float32 (images, 4): xmin, ymin, xmax, ymax in [0, 1], in the order of the records.
    """
    which = ("train", None) if split == "train" else _evaluated(split)
    records = _records(data_dir, manifest, *which, task="localization").batch(1024)
    boxes = [np.concatenate([r[edge] for edge in _EDGES], axis=1) for r in records]
    return np.concatenate(boxes)


def labelled_boxes(data_dir, manifest, *, count=32):
    """The first records of the first train shard, to be looked at.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        count: how many.

    Returns:
        List of (JPEG bytes, words of the class, box), the box as (xmin, ymin, xmax, ymax) in [0, 1]
        or None.
    """
    shard = min(name for name in manifest["shards"] if name.startswith("train"))
    found = []
    for record in tf.data.TFRecordDataset(str(Path(data_dir) / shard)).take(count):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        edges = [features[f"image/object/bbox/{e}"] for e in ("xmin", "ymin", "xmax", "ymax")]
        box = tuple(e.float_list.value[0] for e in edges if e.float_list.value)
        words = manifest["words"][features["image/class/label"].int64_list.value[0] - 1]
        found.append((features["image/encoded"].bytes_list.value[0], words, box or None))
    return found


def _evaluated(split):
    """The shards of what a run reports on, and whether only their hold-out images are wanted."""
    check_choice("split", split, SPLITS)
    return {"val": ("validation", None), "holdout": ("train", True)}[split]


# What a record holds of a target, beside its class.
_EDGES = tuple(f"image/object/bbox/{edge}" for edge in ("xmin", "ymin", "xmax", "ymax"))
_MASK = "image/segmentation/class/encoded"
_FEATURES = {
    "classification": {},
    "localization": {edge: tf.io.FixedLenFeature([1], tf.float32) for edge in _EDGES},
    "segmentation": {_MASK: tf.io.FixedLenFeature([], tf.string)},
}


def _records(data_dir, manifest, prefix, holdout, task="classification"):
    """The records as dicts of their features, in a fixed order.

    `holdout` True keeps the hold-out alone, False all else, None everything.
    """
    check_choice("task", task, _FEATURES)
    shards = sorted(name for name in manifest["shards"] if name.startswith(prefix))
    records = tf.data.Dataset.from_tensor_slices([str(Path(data_dir) / s) for s in shards])
    records = records.interleave(
        tf.data.TFRecordDataset,
        cycle_length=len(shards),
        num_parallel_calls=min(2, len(shards)),
        deterministic=True,
    )
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        **_FEATURES[task],
    }
    examples = records.map(lambda record: tf.io.parse_single_example(record, features))
    if holdout is None:
        return examples
    held_out = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(manifest["holdout"], tf.string),
            tf.ones(len(manifest["holdout"]), tf.int32),
        ),
        default_value=0,
    )
    return examples.filter(lambda e: (held_out[e["image/filename"]] == 1) == holdout)


def _decoded(data_dir, manifest, prefix, holdout, task):
    """The same records as uint8 images (height, width, 3) and targets."""
    size, classes = manifest["image_size"], len(manifest["classes"])

    def decode(record):
        label = tf.cast(record["image/class/label"], tf.int32) - 1
        in_range = tf.debugging.assert_less(
            label, classes, f"a label is outside the {classes} classes of the manifest"
        )
        with tf.control_dependencies([in_range]):
            image = tf.io.decode_jpeg(
                record["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE"
            )
        image = tf.ensure_shape(image, (size, size, 3))
        if task == "localization":
            edges = [record[edge] for edge in _EDGES]
            return image, tf.concat([tf.cast(label, tf.float32)[None], *edges], axis=0)
        if task == "segmentation":
            mask = tf.io.decode_png(record[_MASK], channels=1)
            return image, tf.ensure_shape(mask, (size, size, 1))[..., 0]
        return image, label

    return _records(data_dir, manifest, prefix, holdout, task).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _in_order(images, record_order):
    check_choice("record_order", record_order, ORDERS)
    if record_order == "shuffled":  # as the records are
        return images
    everything = 2**40  # images of one class, gathered before the first of them comes out
    return images.group_by_window(
        lambda _, label: tf.cast(label, tf.int64), lambda _, group: group, everything
    )


def _prefetched(batches, count):
    """Prefetches, and tells Keras how many batches there are."""
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return without_tuner(batches.prefetch(tf.data.AUTOTUNE))


def without_tuner(batches):
    """Leaves parallelism and buffers at their defaults, one thread for each core.

    tf.data's tuner sleeps twice as long each time (10 ms, 20 ms, ...), and a finished iterator is
    not freed before it wakes: an evaluation of 3 seconds would take 5.1.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def _shuffled(images, window, seed):
    """Shuffles with a seed (2,) that may be a tensor.

    `Dataset.shuffle` would mix in TensorFlow's global seed, and so the state of the process.
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
