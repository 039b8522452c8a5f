"""The manifest of a dataset: what its records hold, and how many images a run takes of them."""

import hashlib
import json
import os
from pathlib import Path

from utils.data.archives import DatasetError

DATASETS = ("tiny-imagenet", "tiny-shapes")
MANIFEST = "manifest.json"
SCHEMA = 1


def load_manifest(data_dir: str | os.PathLike, *, verify: bool = True) -> dict:
    """Reads the manifest of a conversion.

    Args:
        data_dir: Folder of the records.
        verify: Whether to check presence and sha256 of each shard.

    Returns:
        The manifest.

    Raises:
        DatasetError: No or another manifest, or a shard that is missing or damaged.
    """
    path = Path(data_dir, MANIFEST)
    remedy = "run notebooks/01_data_conversion.ipynb"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; {remedy}.") from None
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}); delete {data_dir}, {remedy}.") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise DatasetError(f"{path} has another schema; delete {data_dir}, {remedy}.")
    damaged = _damaged_shards(Path(data_dir), manifest) if verify else []
    if damaged:
        raise DatasetError(f"{data_dir}: missing or damaged: {', '.join(damaged)}; {remedy}.")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged_shards(data_dir: Path, manifest: dict) -> list[str]:
    return [
        name
        for name, shard in sorted(manifest["shards"].items())
        if not (data_dir / name).is_file() or _sha256(data_dir / name) != shard["sha256"]
    ]


SHUFFLE_WINDOW = 20_000  # images; the records are already shuffled once over the whole split


ORDERS = ("shuffled", "classes")


SPLITS = ("val", "holdout")  # what a run reports on


def check_choice(name, value, valid):
    """Refuses what is not among the valid values of a parameter, with a `ValueError`."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}. Received: {name}={value!r}")


def evaluation_size(manifest, split="val"):
    """Images that a run reports on."""
    check_choice("split", split, SPLITS)
    return manifest["counts"]["holdout" if split == "holdout" else "validation"]


def training_size(manifest, split="val", fraction=1.0):
    """Images that a run trains on: a share of train, or of train without the hold-out."""
    check_choice("split", split, SPLITS)
    counts = manifest["counts"]
    return round(fraction * (counts["train"] - (counts["holdout"] if split == "holdout" else 0)))


def steps_per_epoch(manifest, split, batch_size, fraction=1.0):
    """Whole batches in an epoch; `ValueError` when there is none."""
    images = training_size(manifest, split, fraction)
    if batch_size > images:
        raise ValueError(
            f"batch_size must be at most the number of training images, {images}. "
            f"Received: batch_size={batch_size}"
        )
    return images // batch_size
