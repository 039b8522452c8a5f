"""The index of ImageNet's TFRecords, and the manifest that stands for them."""

import functools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from utils import tfrecord
from utils.data.archives import DatasetError
from utils.data.imagenet.crops import decode, opencv
from utils.data.imagenet.records import INDEX, INTERLEAVED, LAYOUTS, RecordLayout, label_of
from utils.data.manifest import (
    SCHEMA,
    Manifest,
    manifest_sha256,
    write_manifest,
)
from utils.fields import first_of
from utils.files import file_sha256, replacing
from utils.progress import Bar

CLASS_LISTS = ("synsets.txt", "label.labels.txt")  # a class per line, in the order of the labels
WORDS = "words.txt"  # a class, a tab and its words per line
CLASSES = 1000  # where there is no such list
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's pixels


def index_records(
    folder: str | os.PathLike,
    data_dir: str | os.PathLike,
    image_size: int,
    known: Manifest | None = None,
) -> Manifest:
    """Looks at all records of a folder and writes where they are; nothing if one of them is bad.

    Of each record the length is read, of the first of each file all of it.

    Args:
        folder: with the files of both splits, in a layout of `LAYOUTS`. A class list of
            `CLASS_LISTS` there says how many classes there are; otherwise it is 1,000.
        data_dir: folder for the manifest and the index.
        image_size: of the images that a network is to be given, in pixels.
        known: the manifest that is there, of the same records elsewhere.

    Returns:
        The manifest.

    Raises:
        DatasetError: no folder of this machine, a file is missing, truncated or of another schema,
            or a label is outside of the class list; or these are others than `known` is of.
    """
    if "://" in str(folder):
        raise DatasetError(
            f"{folder} is not a folder on this machine. Mount the bucket (gcsfuse; on Vertex AI it "
            "is /gcs/BUCKET already) and pass the folder."
        )
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; archive must be the one of the TFRecords.")
    opencv()  # or each file would say that it is missing
    layout, shards = _find_shards(folder)
    classes, words = _read_classes(folder)
    index: dict[str, np.ndarray] = {}
    described: dict[str, dict[str, int]] = {}
    problems: list[str] = []
    for prefix, paths in shards.items():
        with ThreadPoolExecutor(INTERLEAVED) as pool:
            look = functools.partial(_look_at, layout=layout, classes=classes)
            bar = Bar(pool.map(look, paths), desc=f"Indexing {prefix}", total=len(paths))
            found = list(bar)
        problems += [what for what in found if isinstance(what, str)]
        places = [what for what in found if not isinstance(what, str)]
        counts = [len(place) for place in places]
        if not problems:
            index[f"{prefix}_places"] = np.concatenate(places)
            index[f"{prefix}_shards"] = np.repeat(np.arange(len(paths)), counts).astype(np.int32)
            for path, count in zip(paths, counts, strict=True):
                described[path.name] = {"bytes": path.stat().st_size, "records": count}
    if problems:
        raise DatasetError(
            f"Files in {folder} cannot be used ({len(problems)}): "
            f"{first_of(problems, between='; ')}. Copy or make them again."
        )
    images = {prefix: len(index[f"{prefix}_shards"]) for prefix in shards}
    manifest = {
        "schema": SCHEMA,
        "dataset": "imagenet",
        "synthetic": False,
        "image_size": image_size,
        "options": {"image_size": image_size},
        "counts": {**images, "holdout": 0},
        "classes": classes,
        "words": words,
        "holdout": [],
        "pixel_mean": list(MEAN),
        "pixel_std": list(STD),
        "shards": described,
        "layout": LAYOUTS.index(layout),
        "records": str(folder),
    }
    if known and manifest_sha256(known) != manifest_sha256(manifest):
        raise DatasetError(
            f"{data_dir} holds the index of other records than those in {folder}; choose another "
            "data_dir."
        )
    return _write(Path(data_dir), index, manifest)


def _write(data_dir: Path, index: dict[str, np.ndarray], manifest: Manifest) -> Manifest:
    data_dir.mkdir(parents=True, exist_ok=True)
    with replacing(data_dir / INDEX) as file:
        np.savez_compressed(file, allow_pickle=False, **index)
    return write_manifest(data_dir, {**manifest, "index_sha256": file_sha256(data_dir / INDEX)})


def _find_shards(folder: Path) -> tuple[RecordLayout, dict[str, list[Path]]]:
    """The layout of a folder, and the files of both splits in order."""
    names = sorted(file.name for file in folder.iterdir())
    for layout in LAYOUTS:
        found = {
            split: [m for n in names if (m := re.fullmatch(layout.files.format(split=split), n))]
            for split in ("train", "validation")
        }
        if not all(found.values()):
            continue
        for matches in found.values():
            total = max(int(match["total"]) for match in matches)
            there = sorted(int(match["number"]) for match in matches)
            if missing := sorted(set(range(total)) - set(there)):
                shown = first_of([*map(str, missing)], most=20)
                first = matches[0].string
                raise DatasetError(
                    f"{folder}: of {total} files like {first}, {len(missing)} are missing: "
                    f"numbers {shown}."
                )
            if len(there) > total:
                raise DatasetError(
                    f"{folder}: {len(there)} files where the names like {matches[-1].string} say "
                    f"{total}. Keep those of one dataset."
                )
        return layout, {s: [folder / m.string for m in matches] for s, matches in found.items()}
    raise DatasetError(
        f"{folder} must have files named train-00000-of-01024 and validation-00000-of-00128, or as "
        f"tensorflow-datasets names them. Found: {first_of(names, most=5) or 'nothing'}"
    )


def _read_classes(folder: Path) -> tuple[list[str], list[str]]:
    """The classes in the order of their labels, and their words."""
    lists = [folder / name for name in CLASS_LISTS if (folder / name).is_file()]
    if not lists:
        classes = [f"class {number}" for number in range(1, CLASSES + 1)]
        return classes, classes
    classes = [name for line in _read_text(lists[0]).splitlines() if (name := line.strip())]
    if len(set(classes)) < len(classes) or len(classes) < 2:
        raise DatasetError(f"{lists[0]} must name two or more classes, each once.")
    if not (folder / WORDS).is_file():
        return classes, classes
    lines = _read_text(folder / WORDS).splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return classes, [words.get(name, name) for name in classes]


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text ({error}); restore the file.") from error


def _look_at(path: Path, layout: RecordLayout, classes: list[str]) -> np.ndarray | str:
    """Where the records of a file are, int64 (records, 2), starts and lengths; or what is wrong."""
    try:
        places = tfrecord.find_records(path)
        if not len(places):
            raise ValueError("it is empty")
        record = tfrecord.read_at(path, *map(int, places[0]))
        _check(tfrecord.Example.FromString(record), layout, classes)
    except IndexError:
        return f"{path.name}: the image or the label of a record is empty or of another type"
    except (DecodeError, ValueError, OSError) as error:
        return str(error) if path.name in str(error) else f"{path.name}: {error}"
    return places


def _check(example: Any, layout: RecordLayout, classes: list[str]) -> None:
    feature = example.features.feature
    if lacking := [key for key in (layout.image, layout.label) if key not in feature]:
        found = ", ".join(sorted(feature)) or "nothing"
        raise ValueError(f"its records have no {' and no '.join(lacking)}. Found: {found}")
    label = label_of(example, layout, len(classes))
    synset = feature["image/class/synset"].bytes_list.value
    if synset and not classes[0].startswith("class ") and synset[0].decode() != classes[label]:
        raise ValueError(
            f"{synset[0].decode()} has the label of {classes[label]} in the class list"
        )
    decode(feature[layout.image].bytes_list.value[0])
