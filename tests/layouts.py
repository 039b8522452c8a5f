"""A small dataset in Tiny ImageNet's layout, and ways to pack it."""

import functools
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.prepare import prepare_dataset

CLASSES = ["n03", "n01", "n02"]  # not sorted, like the real wnids.txt
TRAIN, VAL = 6, 4  # images a class
SHARDS = {"train_shards": 2, "validation_shards": 1}


def jpeg(mode="RGB", size=(64, 64), seed=0, kind="JPEG"):
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    pixels = np.random.RandomState(seed).randint(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def write_layout(root):
    lines = []
    for c, wnid in enumerate(CLASSES):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i in range(TRAIN):
            mode = "L" if (c, i) == (0, 0) else "RGB"
            (images / f"{wnid}_{i}.JPEG").write_bytes(jpeg(mode, seed=100 * c + i))
        boxes = [f"{wnid}_{i}.JPEG\t{i}\t8\t32\t63\n" for i in range(TRAIN)]
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(boxes))
        lines += [f"val_{c * VAL + i}.JPEG\t{wnid}\t0\t16\t48\t64\n" for i in range(VAL)]
    (root / "val" / "images").mkdir(parents=True)
    for k in range(VAL * len(CLASSES)):
        (root / "val" / "images" / f"val_{k}.JPEG").write_bytes(jpeg(seed=1000 + k))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "words.txt").write_text("n01\tone, first\nn02\ttwo\nn03\tthree\nn99\tunused\n")
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_text("ignored")
    (root / "train" / "._n01").write_text("ignored")
    return root


@functools.cache
def sample_files():
    with tempfile.TemporaryDirectory() as folder:
        root = write_layout(Path(folder))
        return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def pack_zip(layout, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(layout.rglob("*"), reverse=True):
            archive.write(file, f"tiny-imagenet-200/{file.relative_to(layout)}")
    return path


def pack_tar(layout, path, mode="w:xz"):
    with tarfile.open(path, mode) as archive:
        archive.add(layout, "tiny-imagenet-200" if mode != "w" else ".")
    return path


def records(folder, split):
    shards = sorted(str(path) for path in Path(folder).glob(f"{split}-*"))
    return [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(shards)]


def convert(archive, output, **options):
    return prepare_dataset("tiny-imagenet", output, archive=archive, **options)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(archive, *texts, **options):
    """The error names the file, and nothing is left behind."""
    output = Path(str(archive).removeprefix("file://")).parent / "records"
    before = sorted(os.listdir(output.parent))
    with pytest.raises(DatasetError) as error:
        convert(archive, output, **options)
    for text in texts:
        assert text in str(error.value)
    assert sorted(os.listdir(output.parent)) == before
