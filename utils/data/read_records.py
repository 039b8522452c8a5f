"""Reads the TFRecords that `utils.data.write_records` writes, in a fixed order."""

import os
from pathlib import Path

import tensorflow as tf

from utils.data.archives import DatasetError
from utils.data.manifest import SPLITS, Manifest, check_choice
from utils.data.write_records import EDGES, MASK

# What a task needs of a record beside its image and class.
_TARGETS = {
    "classification": {},
    "localization": {edge: tf.io.FixedLenFeature([1], tf.float32) for edge in EDGES},
    "segmentation": {MASK: tf.io.FixedLenFeature([], tf.string)},
}


def read_records(
    data_dir: str | os.PathLike,
    manifest: Manifest,
    prefix: str,
    held_out: bool | None = None,
    task: str = "classification",
) -> tf.data.Dataset:
    """The records of some shards.

    Args:
        data_dir: Folder of the records.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        prefix: "train" or "validation".
        held_out: True keeps the hold-out alone, False all else, None everything.
        task: What is read beside image and class: "localization" the box, "segmentation" the mask.

    Returns:
        `tf.data.Dataset` of dicts by the features' names.

    Raises:
        ValueError: Unknown task.
        DatasetError: Images lack what the task needs.
    """
    check_choice("task", task, _TARGETS)
    shards = _shards(data_dir, manifest, prefix)
    _check_targets(data_dir, shards, prefix, task)
    records = tf.data.Dataset.from_tensor_slices(shards).interleave(
        tf.data.TFRecordDataset,
        cycle_length=len(shards),
        num_parallel_calls=min(2, len(shards)),
        deterministic=True,
    )
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        **_TARGETS[task],
    }
    examples = records.map(lambda record: tf.io.parse_single_example(record, features))
    if held_out is None:
        return examples
    names = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(manifest["holdout"], tf.string),
            tf.ones(len(manifest["holdout"]), tf.int32),
        ),
        default_value=0,
    )
    return examples.filter(lambda e: (names[e["image/filename"]] == 1) == held_out)


def evaluated(split: str) -> tuple[str, bool | None]:
    """The prefix and `held_out` of `read_records` for the split that a run reports on."""
    check_choice("split", split, SPLITS)
    return {"val": ("validation", None), "holdout": ("train", True)}[split]


def _shards(data_dir: str | os.PathLike, manifest: Manifest, prefix: str) -> list[str]:
    names = sorted(name for name in manifest["shards"] if name.startswith(prefix))
    return [str(Path(data_dir, name)) for name in names]


def _check_targets(data_dir: str | os.PathLike, shards: list[str], prefix: str, task: str) -> None:
    """Refuses records without what a task needs, before any training."""
    if not _TARGETS[task]:
        return
    key, feature = next(iter(_TARGETS[task].items()))
    count = tf.io.RaggedFeature(feature.dtype)
    unfit = 0
    for records in tf.data.TFRecordDataset(shards).batch(1024):
        values = tf.io.parse_example(records, {key: count})[key]
        unfit += int(tf.math.count_nonzero(values.row_lengths() != 1))
    if unfit:
        target = "box" if task == "localization" else "mask"
        raise DatasetError(
            f"{data_dir}: {unfit} {prefix} images have no {target}, or several; task {task} needs "
            "one of each image. Choose another task or other records."
        )


def read_samples(
    data_dir: str | os.PathLike, manifest: Manifest, *, count: int = 32
) -> list[tuple[bytes, str, tuple[float, ...] | None]]:
    """The first train records, to be looked at.

    Args:
        data_dir: Folder of the records.
        manifest: What `utils.data.manifest.load_manifest` returns for it.
        count: How many, at most.

    Returns:
        List of (JPEG bytes, words of the class, box), the box as (xmin, ymin, xmax, ymax) in [0, 1]
        or None.
    """
    found = []
    shards = _shards(data_dir, manifest, "train")
    for record in tf.data.TFRecordDataset(shards).take(count):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        edges = [features[edge].float_list.value for edge in EDGES]
        box = tuple(values[0] for values in edges) if edges[0] else None
        words = manifest["words"][features["image/class/label"].int64_list.value[0] - 1]
        found.append((features["image/encoded"].bytes_list.value[0], words, box))
    return found
