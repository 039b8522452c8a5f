"""Every dataset of the project by its name."""

import os
import tempfile
from pathlib import Path

from utils.data import tiny_shapes
from utils.data.archives import DatasetError
from utils.data.manifest import DATASETS, MANIFEST, load_manifest
from utils.data.tfrecords import OFFICIAL_URL, _build, _finished, convert


def prepare_dataset(
    dataset: str,
    data_dir: str | os.PathLike,
    *,
    archive: str | os.PathLike = OFFICIAL_URL,
    sha256: str | None = None,
    train_shards: int = 16,
    validation_shards: int = 2,
    **shapes_options,
) -> dict:
    """Makes the records of a dataset in `data_dir`, unless they are there.

    Args:
        dataset: "tiny-imagenet" converts `archive`; "tiny-shapes" draws the embedded dataset.
        data_dir: Folder of the records.
        archive: See `convert`; not used for "tiny-shapes".
        sha256: See `convert`.
        train_shards: Number of train files.
        validation_shards: Number of validation files.
        **shapes_options: See `tiny_shapes.draw_tiny_shapes`.

    Returns:
        The manifest.

    Raises:
        ValueError: Unknown dataset.
        DatasetError: See `convert`; or `data_dir` holds the other dataset.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}. Received: {dataset!r}")
    synthetic = dataset == "tiny-shapes"
    shards = {"train": train_shards, "validation": validation_shards}
    if Path(data_dir, MANIFEST).exists():
        found = load_manifest(data_dir, verify=False)
        asked = {split: shapes_options.get(f"{split}_per_class") for split in shards}
        if found["synthetic"] != synthetic or any(
            number and found["class_counts"][split][0] != number for split, number in asked.items()
        ):
            raise DatasetError(
                f"{data_dir} holds {found['dataset']} with {found['counts']}, not the {dataset} "
                "asked for; choose another folder."
            )
    if dataset == "tiny-imagenet":
        return convert(
            archive,
            data_dir,
            sha256=sha256,
            train_shards=train_shards,
            validation_shards=validation_shards,
        )
    if manifest := _finished(data_dir, shards):
        return manifest
    with tempfile.TemporaryDirectory() as root:
        tiny_shapes.draw_tiny_shapes(root, **shapes_options)
        return _build(root, Path(data_dir), None, shards)
