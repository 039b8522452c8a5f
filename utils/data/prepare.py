"""Every dataset of the project by its name: convert an archive, or draw one, unless it is there."""

import contextlib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from utils.data.archives import (
    REMEDY,
    Archive,
    DatasetError,
    check_disk,
    is_system_file,
    open_archive,
)
from utils.data.datasets import tiny_shapes
from utils.data.datasets.folder import files_sha256, read_folder
from utils.data.datasets.layout import Layout
from utils.data.datasets.parquet import unpack_parquet
from utils.data.datasets.tiny_imagenet import read_layout
from utils.data.imagenet import index
from utils.data.manifest import (
    DATASETS,
    MANIFEST,
    PREPARED_WITH,
    Manifest,
    Options,
    check_dataset,
    counts_in_words,
    damaged_shards,
    load_manifest,
)
from utils.data.write_records import describe_layout, write_records
from utils.fields import check_choice, check_field
from utils.files import locked, unfinished, write_advice

OFFICIAL_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
OFFICIAL_SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"

DEFAULT_SHARDS = {"train": 16, "validation": 2}
OPTIONS: dict[str, Options] = {"tiny-shapes": tiny_shapes.DEFAULT_OPTIONS, **PREPARED_WITH}
MOST_SHARDS = 128  # of a split, which are read in turn, all of them open
RECORD_OVERHEAD = 512  # bytes a record beside the image, for the check of the disk

Shards = dict[str, int]


def prepare_dataset(
    dataset: str,
    data_dir: str | os.PathLike,
    *,
    archive: str | os.PathLike | None = None,
    sha256: str | None = None,
    train_shards: int | None = None,
    validation_shards: int | None = None,
    **options: float,
) -> Manifest:
    """Makes the records of a dataset in `data_dir`, unless they are there.

    Every image is decoded once and checked; JPEG bytes are stored as they are. The records are
    built in a hidden folder within `data_dir` and moved when all are there, so a failure leaves
    nothing. Finished records are recognized by their manifest, without the archive. If one of their
    shards is damaged, or other numbers of shards are asked for, they are rebuilt, but only from the
    data that they were made from.

    Args:
        dataset: "tiny-imagenet" converts `archive`; "tiny-shapes" draws the embedded dataset;
            "folder" converts an `archive` with a folder of pictures for each class; "imagenet"
            leaves the records of the folder `archive` where they are and writes their index.
        data_dir: folder of the records: new, empty or of an earlier conversion.
        archive: path of a zip, a tar (also .gz, .bz2 or .xz) or a folder, for Tiny ImageNet also
            one of the parquet files of zh-plus/tiny-imagenet (see `datasets.parquet`), or a URL;
            None: Tiny ImageNet's official one, in place of which a file of its name in `data/`, or
            a tar of it, is taken if there is one. Not used for "tiny-shapes".
        sha256: expected digest of the archive file; the official URL has its own.
        train_shards: number of training files, at most 128; None is what is there, or 16.
        validation_shards: number of validation files; None is what is there, or 2.
        **options: of "tiny-shapes", see `tiny_shapes.draw_tiny_shapes`; of "folder", see
            `folder.read_folder`; of "imagenet", `image_size`. What is not passed may be anything in
            records that are there.

    Returns:
        The manifest, as in `data_dir/manifest.json`.

    Raises:
        ValueError: unknown dataset or option.
        DatasetError: anything wrong with the archive, its files, `data_dir` or the disk; or
            `data_dir` holds another dataset, other options, what a folder of pictures held before
            it was changed, or needs to be rebuilt and holds other data than the archive.
    """
    check_choice("dataset", dataset, DATASETS)
    data_dir = os.path.expanduser(data_dir)
    archive = os.path.expanduser(archive) if archive else None
    usual = OPTIONS.get(dataset, {})
    if not set(options) <= set(usual):
        raise ValueError(
            f"The options of {dataset} are: {', '.join(usual) or 'none'}. "
            f"Received: {', '.join(options)}"
        )
    shards = _check_shards(train_shards, validation_shards)
    try:
        with _one_at_a_time(data_dir):
            return _prepare(dataset, data_dir, archive, sha256, shards, options)
    except OSError as error:
        advice = write_advice(error.errno, REMEDY)
        raise DatasetError(
            f"Writing {data_dir} failed ({error}); {advice}, then convert again."
        ) from error


def _prepare(
    dataset: str,
    data_dir: str | os.PathLike,
    archive: str | None,
    sha256: str | None,
    shards: Shards,
    options: Options,
) -> Manifest:
    found = _find_manifest(Path(data_dir))
    if found:
        check_dataset(data_dir, found, dataset, options)
    options = {**OPTIONS.get(dataset, {}), **(found["options"] if found else {}), **options}
    if dataset == "imagenet":
        return _index(archive, Path(data_dir), found, options)
    if found and _is_finished(data_dir, found, shards):
        if archive and dataset == "folder" and os.path.exists(archive):
            _check_unchanged(archive, data_dir, found)
        return found
    if dataset == "tiny-imagenet" and archive in (None, OFFICIAL_URL):
        if found and found["dataset"] != dataset:  # known without downloading it
            raise _other_data(data_dir, found, OFFICIAL_URL, ["dataset"])
        archive = _at_hand(Path(OFFICIAL_URL).stem) or OFFICIAL_URL
        if archive.endswith(".zip"):
            sha256 = sha256 or OFFICIAL_SHA256
    return _build(dataset, archive, Path(data_dir), sha256, shards, found, options)


@contextlib.contextmanager
def _one_at_a_time(folder: str | os.PathLike) -> Iterator[None]:
    """Waits while another process of this user prepares a folder: it may do all that is to do."""
    place = f"{Path.home()} {os.path.realpath(folder)}"
    name = f"fishnet-{hashlib.sha256(place.encode()).hexdigest()[:16]}.lock"
    with locked(Path(tempfile.gettempdir(), name)):
        yield


def _index(
    archive: str | os.PathLike | None, data_dir: Path, found: Manifest | None, options: Options
) -> Manifest:
    """The index of ImageNet's records, made anew only where they are elsewhere by now."""
    if found and (archive is None or os.path.abspath(archive) == found["records"]):
        return load_manifest(data_dir)  # which looks whether they are there
    if archive is None:
        raise DatasetError(f"{data_dir} holds no index yet; give the archive, the records' folder.")
    return index.index_records(archive, data_dir, known=found, **options)


def _check_shards(train: int | None, validation: int | None) -> Shards:
    """The numbers of shards that were asked for."""
    shards = {
        split: number
        for split, number in (("train", train), ("validation", validation))
        if number is not None
    }
    rule = (f"a whole number from 1 to {MOST_SHARDS}", range(1, MOST_SHARDS + 1).__contains__)
    return {
        split: cast(int, check_field(f"{split}_shards", number, int, rule))
        for split, number in shards.items()
    }


def _at_hand(name: str) -> str | None:
    """An archive that somebody has put into `data/`, so that nothing is downloaded."""
    for ending in (".zip", ".tar.xz", ".tar.gz"):
        path = Path("data", name + ending)
        if path.exists():
            print(f"Taking {path} instead of downloading.")
            return str(path)
    return None


def _find_manifest(data_dir: Path) -> Manifest | None:
    """The manifest of a conversion in a folder; None if the folder is empty or does not exist."""
    if (data_dir / MANIFEST).exists():
        return load_manifest(data_dir, verify=False)
    if data_dir.exists() and not (
        data_dir.is_dir() and all(is_system_file(file.name) for file in data_dir.iterdir())
    ):
        raise DatasetError(
            f"{data_dir} exists and holds no {MANIFEST}; choose a new or empty folder."
        )
    return None


def _check_unchanged(
    archive: str | os.PathLike, data_dir: str | os.PathLike, found: Manifest
) -> None:
    """Refuses records of a folder or an archive whose pictures are others by now."""
    # A tar is unpacked to be listed, where it was for its conversion: `/tmp` may be too small.
    writable = os.access(data_dir, os.W_OK)
    with (
        unfinished(Path(data_dir)) if writable else tempfile.TemporaryDirectory() as scratch,
        open_archive(archive, scratch, sha256=None, marker=None) as source,
    ):
        if files_sha256(source) != found["files_sha256"]:
            raise DatasetError(
                f"The pictures in {archive} are not those any more that {data_dir} was made from. "
                f"To convert them anew, delete {data_dir} or choose another folder."
            )


def _is_finished(data_dir: str | os.PathLike, found: Manifest, shards: Shards) -> bool:
    """Whether the records are undamaged and in the numbers of shards that were asked for."""
    damaged = damaged_shards(data_dir, found)
    if not damaged and shards.items() <= _shards_of(found).items():
        print(f"{data_dir} already holds {found['dataset']}: {counts_in_words(found)}.")
        return True
    reason = f"damaged: {', '.join(damaged)}" if damaged else "other numbers of shards asked for"
    print(f"The records in {data_dir} are to be rebuilt ({reason}).")
    return False


def _shards_of(found: Manifest) -> Shards:
    return dict(Counter(name.split("-")[0] for name in found["shards"]))


def _other_data(
    data_dir: str | os.PathLike, found: Manifest, archive: object, fields: list[str]
) -> DatasetError:
    return DatasetError(
        f"{data_dir} holds {found['dataset']} that was not made from {archive} (another "
        f"{', '.join(fields)}), so it is not rebuilt from that. Pass the archive that it was made "
        "from, or choose another folder."
    )


def _check_same_data(
    data_dir: Path, found: Manifest | None, new: Manifest, archive: object
) -> None:
    """Refuses to replace records by those of other data, as far as both manifests tell."""
    common = set(found or ()) & set(new) - {"schema", "shards"}
    fields = sorted(key for key in common if found and found[key] != new[key])
    if found and fields:
        raise _other_data(data_dir, found, archive, fields)


def _build(
    dataset: str,
    archive: str | os.PathLike | None,
    data_dir: Path,
    sha256: str | None,
    shards: Shards,
    found: Manifest | None,
    options: Options,
) -> Manifest:
    """Converts an archive, or draws; writes nothing but `data_dir`.

    That may be a mount point, or its parent read-only.
    """
    target = Path(os.path.realpath(data_dir))
    is_new = not target.exists()
    shards = {**DEFAULT_SHARDS, **(_shards_of(found) if found else {}), **shards}
    try:
        target.mkdir(parents=True, exist_ok=True)
        with unfinished(target) as scratch, tempfile.TemporaryDirectory() as drawn:
            if dataset == "tiny-shapes":
                archive = tiny_shapes.draw_tiny_shapes(drawn, **options)
            if archive is None:
                raise DatasetError(
                    f"{data_dir} holds no records yet; give the archive that they are made from."
                )
            if dataset == "folder" and target.is_relative_to(os.path.realpath(archive)):
                raise DatasetError(f"{data_dir} is in {archive}, among the pictures; {REMEDY}.")
            built = scratch / "records"
            built.mkdir()
            parquet = dataset == "tiny-imagenet" and _has_parquet(Path(archive))
            marker = None if parquet or dataset == "folder" else "wnids.txt"
            with open_archive(archive, scratch, sha256=sha256, marker=marker) as source:
                source = unpack_parquet(source) if parquet else source
                layout = _layout_of(dataset, source, options)
                description = describe_layout(layout, options)
                _check_same_data(data_dir, found, description, archive)
                check_disk(target, _needed(source, layout), REMEDY)
                manifest = write_records(source, layout, built, shards, description)
            _check_same_data(data_dir, found, manifest, archive)
            _publish(built, target, found)
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                target.rmdir()  # where it is still empty
    return manifest


def _has_parquet(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet"))


def _layout_of(dataset: str, source: Archive, options: Options) -> Layout:
    return read_folder(source, **options) if dataset == "folder" else read_layout(source)


def _needed(source: Archive, layout: Layout) -> int:
    """Bytes of the records, about."""
    images = sum(map(len, layout.splits.values()))
    pixels = source.size if layout.dataset != "folder" else 2 * images * layout.image_size**2
    return pixels + RECORD_OVERHEAD * images


def _publish(built: Path, target: Path, found: Manifest | None) -> None:
    """Moves finished records to `target`, the manifest last; what fails in a new one is undone."""
    new = sorted(built.iterdir(), key=lambda file: file.name == MANIFEST)
    try:
        for file in new:
            file.replace(target / file.name)
    except BaseException:
        if not found:
            for file in new:
                (target / file.name).unlink(missing_ok=True)
        raise
    for name in set(found["shards"] if found else ()) - {file.name for file in new}:
        (target / Path(name).name).unlink(missing_ok=True)
