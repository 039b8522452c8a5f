"""Tiny ImageNet as others pass it on: images, labels and hold-out of the official archive."""

import hashlib
import io
import json
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from layouts import CLASSES, SHARDS, TRAIN, VAL, convert
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.datasets import parquet, tiny_imagenet
from utils.data.read_records import read_examples

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SAME = (
    "dataset", "classes", "words", "counts", "class_counts", "holdout", "grayscale", "pixel_mean",
    "pixel_std", "image_size",
)  # fmt: skip


@pytest.fixture
def official(layout, monkeypatch):
    """Lets the classes of the small dataset be the official ones."""
    wnids = sorted(CLASSES)
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL_CLASSES_SHA256", digest)
    counts = {"train": TRAIN, "validation": VAL}
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL_CLASS_COUNTS", counts)

    def crc(path):
        return zlib.crc32((layout / path).read_bytes())

    number = len(CLASSES) * VAL
    held = {
        "wnids": np.array(wnids),
        "words": np.array(["one, first", "two", "three"]),
        "train": np.array([[crc(f"train/{w}/images/{w}_{i}.JPEG") for i in range(TRAIN)]
                           for w in wnids]),
        "val": np.array([crc(f"val/images/val_{k}.JPEG") for k in range(number)]),
        "val_labels": np.array([wnids.index(CLASSES[k // VAL]) for k in range(number)]),
    }  # fmt: skip
    monkeypatch.setattr(parquet, "_official", lambda: held)
    return layout


def images_of(layout):
    """Bytes and labels by split, in an order of their own."""
    wnids = sorted(CLASSES)
    train = [(layout / f"train/{w}/images/{w}_{i}.JPEG", wnids.index(w))
             for w in wnids for i in reversed(range(TRAIN))]  # fmt: skip
    val = [(layout / f"val/images/val_{k}.JPEG", wnids.index(CLASSES[k // VAL]))
           for k in reversed(range(len(CLASSES) * VAL))]  # fmt: skip
    return {
        split: [(path.read_bytes(), label) for path, label in pairs]
        for split, pairs in (("train", train), ("valid", val))
    }


def write_parquet(folder, images, names=("n01", "n02", "n03")):
    """As the library `datasets` writes them."""
    folder.mkdir(parents=True)
    features = {"image": {"decode": True, "id": None, "_type": "Image"}}
    if names:
        features["label"] = {"names": list(names), "id": None, "_type": "ClassLabel"}
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "label": pa.int64(),
        },
        {b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    for split, pairs in images.items():
        rows = [{"image": {"bytes": data, "path": None}, "label": label} for data, label in pairs]
        file = folder / f"{split}-00000-of-00001-1359597a978bc4fa.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=5)
    return folder


def test_parquet_files_are_the_official_archive_without_boxes(official, tmp_path):
    whole = convert(official, tmp_path / "a", **SHARDS)
    folder = write_parquet(tmp_path / "hub" / "data", images_of(official))
    found = convert(folder, tmp_path / "b", **SHARDS)
    assert {name: found[name] for name in SAME} == {name: whole[name] for name in SAME}
    assert found["records_sha256"] != whole["records_sha256"]  # for the boxes
    (tmp_path / "hub" / "README.md").touch()  # the whole repository, as it is downloaded
    assert convert(tmp_path / "hub", tmp_path / "c", **SHARDS) == found


def test_validation_images_sorted_by_class_are_the_same(official, tmp_path):
    whole = convert(official, tmp_path / "a", **SHARDS)
    for k in range(len(CLASSES) * VAL):
        target = official / "val" / CLASSES[k // VAL] / f"val_{k}.JPEG"
        target.parent.mkdir(exist_ok=True)
        (official / f"val/images/val_{k}.JPEG").rename(target)
    (official / "val/images").rmdir()
    (official / "val/val_annotations.txt").unlink()
    found = convert(official, tmp_path / "b", **SHARDS)
    assert {name: found[name] for name in SAME} == {name: whole[name] for name in SAME}
    train = [name for name in found["shards"] if name.startswith("train")]
    assert all(found["shards"][name] == whole["shards"][name] for name in train)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_images_that_were_encoded_again_are_said(official, tmp_path, capsys, split):
    images = images_of(official)
    file = io.BytesIO()
    Image.open(io.BytesIO(images[split][3][0])).save(file, "JPEG", quality=50)
    images[split][3] = (file.getvalue(), images[split][3][1])
    found = convert(write_parquet(tmp_path / "data", images), tmp_path / "b", **SHARDS)
    assert found["counts"]["train"] == TRAIN * len(CLASSES)
    assert (
        "1 images are not those of the official archive, byte for byte" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("no val", "no parquet file of val among train-00000-of-00001-1359597a978bc4fa.parquet; "
         "pass the folder data/ of the dataset."),
        ("no names", "the parquet files do not name their classes; pass those of "
         "zh-plus/tiny-imagenet as they are."),
        ("damaged", "download it again."),
        ("no label", "train-00000-of-00001-1359597a978bc4fa.parquet, row 2: the label must be "
         "from 0 to 2. Received: -1"),
        ("no bytes", "train-00000-of-00001-1359597a978bc4fa.parquet, row 2: there are no bytes "
         "of an image; pass the files as they are on the hub."),
        ("no pyarrow", "holds parquet files, which are read by pyarrow: pip install pyarrow"),
    ],
)  # fmt: skip
def test_what_is_refused(layout, tmp_path, monkeypatch, change, text):
    images = images_of(layout)
    if change == "no val":
        del images["valid"]
    data, label = images["train"][2]
    if change == "no label":
        images["train"][2] = (data, -1)
    if change == "no bytes":
        images["train"][2] = (None, label)
    names = () if change == "no names" else sorted(CLASSES)
    folder = write_parquet(tmp_path / "data", images, names)
    if change == "damaged":
        next(folder.glob("train*")).write_bytes(b"PAR1 and no more")
    if change == "no pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError) as error:
        convert(folder, tmp_path / "records")
    assert str(error.value).endswith(text)
    assert not (tmp_path / "records").exists()


@pytest.mark.slow
@pytest.mark.skipif("FISHNET_SHARED" not in os.environ, reason="FISHNET_SHARED is not set")
def test_the_real_images(tmp_path):
    archive = Path(os.environ["FISHNET_SHARED"], "data", "tiny-imagenet-200.tar.xz")
    whole = convert(archive, tmp_path / "a")
    images = {"train": [], "valid": []}
    for split, prefix in (("train", "train"), ("valid", "validation")):
        for example in read_examples(tmp_path / "a", whole, prefix):
            feature = example.features.feature
            label = feature["image/class/label"].int64_list.value[0] - 1
            images[split].append((feature["image/encoded"].bytes_list.value[0], label))
    found = convert(write_parquet(tmp_path / "data", images, whole["classes"]), tmp_path / "b")
    assert {name: found[name] for name in SAME} == {name: whole[name] for name in SAME}
