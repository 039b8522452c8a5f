"""The manifest of a dataset: what its records hold, and how many images a run takes of them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from utils.data.archives import DatasetError
from utils.fields import check_choice, first_of
from utils.files import file_sha256, replacing

DATASETS = ("tiny-imagenet", "tiny-shapes", "folder", "imagenet")
IMAGE_SIZE = 64  # height and width of the images of Tiny ImageNet and tiny-shapes, in pixels
# What a dataset is prepared with if nothing else is asked for; tiny-shapes has options of its own.
PREPARED_WITH: dict[str, dict[str, Any]] = {
    "folder": {"image_size": IMAGE_SIZE, "val_share": 0.1},
    "imagenet": {"image_size": 224},
}
ORDERS = ("shuffled", "classes")
SPLITS = ("val", "holdout")  # what a run reports on
TASKS = ("classification", "localization", "segmentation")

MANIFEST = "manifest.json"
SCHEMA = 2
# Added by schema 2: the dataset's options, a digest of all records whatever their shards, and where
# they are, if elsewhere, with the digest of their index.
_ADDED = ("options", "records_sha256", "records", "index_sha256")

Manifest = dict[str, Any]
MAKE_AGAIN = "run notebooks/01_data_conversion.ipynb, or 03_train for pictures of your own"

Options = dict[str, Any]  # numbers that a dataset is drawn or prepared with, by name


def load_manifest(data_dir: str | os.PathLike, *, verify: bool = True) -> Manifest:
    """Reads the manifest of a conversion.

    Args:
        data_dir: folder of the records.
        verify: whether to check presence and sha256 of each shard.

    Returns:
        The manifest.

    Raises:
        DatasetError: no or another manifest, or a shard that is missing or damaged.
    """
    path = Path(data_dir, MANIFEST)
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; {MAKE_AGAIN}.") from None
    except ValueError as error:
        raise DatasetError(
            f"{path} is damaged or half-written ({error}); delete {data_dir}, then {MAKE_AGAIN}."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise DatasetError(f"{path} has another schema; delete {data_dir}, then {MAKE_AGAIN}.")
    damaged = damaged_shards(data_dir, manifest) if verify else []
    if damaged:
        remedy = MAKE_AGAIN
        if "records" in manifest:
            remedy = f"mount or restore {manifest['records']}, or pass the archive's new place"
        raise DatasetError(f"{data_dir}: missing or damaged: {first_of(damaged)}; {remedy}.")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the manifest; returns it as it is read back."""
    text = _as_text(manifest)
    with replacing(folder / MANIFEST, "w") as file:
        file.write(text)
    return json.loads(text)


def _as_text(manifest: Manifest) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def manifest_sha256(manifest: Manifest) -> str:
    """The digest by which results name their dataset.

    It leaves out what schema 2 added, so that results from before and after it name the same
    dataset.

    Args:
        manifest: what `load_manifest` returns.

    Returns:
        sha256, hexadecimal.
    """
    first = {key: value for key, value in manifest.items() if key not in _ADDED}
    return hashlib.sha256(_as_text({**first, "schema": 1}).encode()).hexdigest()


def check_dataset(
    data_dir: str | os.PathLike, manifest: Manifest, dataset: str, options: Options
) -> None:
    """Refuses records of another dataset, or drawn or prepared with other options.

    Args:
        data_dir: folder of the records.
        manifest: theirs.
        dataset: the one of `DATASETS` that is asked for.
        options: those that are asked for.

    Raises:
        DatasetError: says what the folder holds, and what was asked for.
    """
    there = manifest["options"]
    other = {name: value for name, value in options.items() if there.get(name) != value}
    held, asked = manifest["dataset"], dataset
    if held.startswith(dataset):  # so is tiny-imagenet-like
        if not other:
            return
        held += " with " + ", ".join(f"{name}={there.get(name)}" for name in other)
        asked = ", ".join(f"{name}={value}" for name, value in other.items())
    raise DatasetError(f"{data_dir} holds {held}, not {asked}; choose another folder.")


def damaged_shards(data_dir: str | os.PathLike, manifest: Manifest) -> list[str]:
    """Names of the shards that are missing, or whose sha256, or size, is not the manifest's."""
    folder = Path(manifest.get("records", data_dir))
    return [
        name
        for name, shard in sorted(manifest["shards"].items())
        if not (folder / name).is_file() or _is_damaged(folder / name, shard)
    ]


def _is_damaged(path: Path, shard: dict[str, Any]) -> bool:
    if "sha256" not in shard:  # hundreds of gigabytes
        return path.stat().st_size != shard["bytes"]
    return file_sha256(path) != shard["sha256"]


def counts_in_words(manifest: Manifest) -> str:
    """How many images there are, such as "4,800 training images (1,200 …"."""
    counts = manifest["counts"]
    return (
        f"{counts['train']:,} training images ({counts['holdout']:,} of them the hold-out), "
        f"{counts['validation']:,} validation images"
    )


def evaluation_size(manifest: Manifest, split: str = "val") -> int:
    """Images that a run reports on.

    Args:
        manifest: what `load_manifest` returns.
        split: "val" or "holdout".

    Raises:
        ValueError: unknown split, or one without images.
    """
    check_choice("split", split, SPLITS)
    size = manifest["counts"]["holdout" if split == "holdout" else "validation"]
    if not size:
        raise ValueError(
            "split must have images; no class has the two training images that a hold-out needs. "
            f"Received: split={split!r}"
        )
    return size


def training_size(manifest: Manifest, split: str = "val", fraction: float = 1.0) -> int:
    """Images that a run trains on: a fraction of all, or of those outside the hold-out.

    Raises:
        ValueError: unknown split.
    """
    check_choice("split", split, SPLITS)
    counts = manifest["counts"]
    return round(fraction * (counts["train"] - (counts["holdout"] if split == "holdout" else 0)))


def steps_per_epoch(manifest: Manifest, split: str, batch_size: int, fraction: float = 1.0) -> int:
    """Whole batches in an epoch; `ValueError` when there is none."""
    images = training_size(manifest, split, fraction)
    if batch_size > images:
        raise ValueError(
            f"batch_size must be at most the number of training images, {images}. "
            f"Received: batch_size={batch_size}"
        )
    return images // batch_size
