import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    CLASSES,
    SHARDS,
    TRAIN,
    VAL,
    assert_refused,
    convert,
    jpeg,
    pack_tar,
    pack_zip,
    records,
)
from PIL import Image

from utils.data import archives, write_records
from utils.data.archives import DatasetError
from utils.data.datasets import tiny_imagenet
from utils.data.datasets.layout import ImageFile, Layout
from utils.data.manifest import load_manifest, manifest_sha256
from utils.data.prepare import prepare_dataset
from utils.training.results import read_result


def test_records_hold_exactly_what_the_layout_holds(layout, tmp_path):
    output = tmp_path / "records"
    manifest = convert(layout, output, **SHARDS)
    train = records(output, "train")
    assert len(train) == TRAIN * len(CLASSES)
    for example in train:
        feature = dict(example.features.feature)
        name = feature["image/filename"].bytes_list.value[0].decode()
        wnid = name.split("_")[0]
        start = int(name.split("_")[1].split(".")[0])
        box = [start / 64, 8 / 64, 32 / 64, 63 / 64]
        for key, edge in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            assert list(feature.pop(f"image/object/bbox/{key}").float_list.value) == [edge]
        ints = {key: list(f.int64_list.value) for key, f in feature.items()}
        assert {key: value for key, value in ints.items() if value} == {
            "image/height": [64],
            "image/width": [64],
            "image/channels": [3],
            "image/class/label": [1 + sorted(CLASSES).index(wnid)],
        }
        assert {
            key: f.bytes_list.value[0]
            for key, f in feature.items()
            if key not in ints or not ints[key]
        } == {
            "image/colorspace": b"RGB",
            "image/format": b"JPEG",
            "image/class/synset": wnid.encode(),
            "image/filename": name.encode(),
            "image/encoded": (layout / "train" / wnid / "images" / name).read_bytes(),
        }
    val = records(output, "validation")
    labels = {
        e.features.feature["image/filename"].bytes_list.value[0]: e.features.feature[
            "image/class/label"
        ].int64_list.value[0]
        for e in val
    }
    assert labels[b"val_0.JPEG"] == 3
    assert labels[b"val_4.JPEG"] == 1
    assert val[0].features.feature["image/object/bbox/ymax"].float_list.value[0] == 1
    shards = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
    assert sorted(os.listdir(output)) == ["manifest.json", *shards]
    assert sorted(manifest["shards"]) == shards


def test_manifest(layout, tmp_path):
    manifest = convert(layout, tmp_path / "records", **SHARDS)
    assert json.loads((tmp_path / "records" / "manifest.json").read_text()) == manifest
    assert load_manifest(tmp_path / "records") == manifest
    assert manifest["dataset"] == "tiny-imagenet-like"
    assert manifest["synthetic"] is False
    assert manifest["classes"] == sorted(CLASSES)
    assert manifest["words"] == ["one, first", "two", "three"]
    assert manifest["counts"] == {"train": 18, "validation": 12, "holdout": 9}
    assert manifest["class_counts"] == {"train": [6, 6, 6], "validation": [4, 4, 4]}
    assert manifest["grayscale"] == {"train": 1, "validation": 0}
    assert Counter(name[:3] for name in manifest["holdout"]) == {"n01": 3, "n02": 3, "n03": 3}
    pixels = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB"))
            for path in sorted(layout.glob("train/*/images/*.JPEG"))
        ]
    )
    np.testing.assert_allclose(manifest["pixel_mean"], pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(manifest["pixel_std"], pixels.std((0, 1, 2)), atol=1e-4)


def test_lists_may_begin_with_a_byte_order_mark(layout, tmp_path):
    manifest = convert(layout, tmp_path / "as-it-is", **SHARDS)
    (layout / "wnids.txt").write_bytes(b"\xef\xbb\xbf" + (layout / "wnids.txt").read_bytes())
    marked = convert(layout, tmp_path / "marked", **SHARDS)
    assert (marked["classes"], marked["shards"]) == (manifest["classes"], manifest["shards"])
    (layout / "words.txt").write_bytes(b"\xff")
    assert_refused(layout, "words.txt is not UTF-8 text", "restore the file")


def test_zip_tar_and_folder_give_the_same_bytes(layout, tmp_path):
    sources = [
        layout,
        pack_zip(layout, tmp_path / "a.zip"),
        pack_tar(layout, tmp_path / "a.tar.xz"),
        pack_tar(layout, tmp_path / "a.tar.gz", "w:gz"),
        pack_tar(layout, tmp_path / "a.tar", "w"),  # without a leading folder
    ]
    outputs = []
    for index, archive in enumerate(sources):
        convert(archive, tmp_path / str(index), **SHARDS)
        outputs.append({p.name: p.read_bytes() for p in (tmp_path / str(index)).iterdir()})
    assert all(output == outputs[0] for output in outputs)


def test_records_are_shuffled_over_the_whole_split(layout, tmp_path):
    convert(layout, tmp_path / "records", **SHARDS)
    labels = [
        e.features.feature["image/class/label"].int64_list.value[0]
        for e in records(tmp_path / "records", "train")
    ]
    changes = sum(a != b for a, b in zip(labels, labels[1:], strict=False))
    assert changes > 6  # in order of class there would be 2
    assert len(set(labels[:9])) == 3


def test_holdout_has_fifty_a_class_from_a_fixed_seed(layout):
    images = [
        ImageFile(f"train/{wnid}/images/{wnid}_{i}.JPEG", wnid)
        for wnid, number in (("n01", 120), ("n02", 61))
        for i in range(number)
    ]
    sample = Layout("", ["n01", "n02"], [], {"train": images}, 64, None)
    names = write_records.choose_holdout(sample)
    assert Counter(name[:3] for name in names) == {"n01": 50, "n02": 30}
    assert names == sorted(set(names))
    assert names == write_records.choose_holdout(sample)
    assert names[:3] == ["n01_101.JPEG", "n01_106.JPEG", "n01_11.JPEG"]


def test_boxes_may_be_missing(layout, tmp_path):
    (layout / "train" / "n01" / "n01_boxes.txt").unlink()
    boxes = layout / "train" / "n02" / "n02_boxes.txt"
    boxes.write_text("n02_0.JPEG\t0\t0\t10\t10\nn02_0.JPEG\t5\t5\t20\t70\n")
    convert(layout, tmp_path / "records", **SHARDS)
    found = {}
    for example in records(tmp_path / "records", "train"):
        feature = example.features.feature
        if "image/object/bbox/ymax" in feature:
            name = feature["image/filename"].bytes_list.value[0].decode()
            found[name] = list(feature["image/object/bbox/ymax"].float_list.value)
    assert found["n02_0.JPEG"] == [10 / 64, 1.0]
    assert {name[:3] for name in found} == {"n02", "n03"}
    assert len(found) == 1 + TRAIN


def test_masks_are_kept(layout, tmp_path):
    png = jpeg("L", kind="PNG")
    black = io.BytesIO()
    Image.new("L", (64, 64), 3).save(black, "PNG")
    folder = layout / "val" / "masks"
    folder.mkdir()
    for k in range(VAL * len(CLASSES)):
        (folder / f"val_{k}.png").write_bytes(black.getvalue())
    convert(layout, tmp_path / "out", **SHARDS)
    feature = records(tmp_path / "out", "validation")[0].features.feature
    assert feature["image/segmentation/class/encoded"].bytes_list.value[0] == black.getvalue()
    assert feature["image/segmentation/class/format"].bytes_list.value[0] == b"png"
    (folder / "val_3.png").write_bytes(png)
    assert_refused(layout, "val/masks/val_3.png", "0 (background) to 3")
    (folder / "val_3.png").unlink()
    assert_refused(layout, "val/masks/val_3.png is missing")


def test_a_finished_conversion_needs_no_archive(layout, tmp_path, capsys):
    output = tmp_path / "records"
    manifest = convert(layout, output, **SHARDS)
    shutil.rmtree(layout)
    assert convert(layout, output, **SHARDS) == manifest
    assert prepare_dataset("tiny-imagenet", output, archive=layout, **SHARDS) == manifest
    images = manifest["counts"]
    assert (
        f"{output} already holds tiny-imagenet-like: {images['train']} training images "
        f"({images['holdout']} of them the hold-out), {images['validation']} validation images."
    ) in capsys.readouterr().out
    with pytest.raises(DatasetError, match="holds tiny-imagenet-like"):
        prepare_dataset("tiny-shapes", output)


def test_a_damaged_shard_is_reported_and_rebuilt(layout, tmp_path, capsys):
    output = tmp_path / "records"
    convert(layout, output, **SHARDS)
    before = {p.name: p.read_bytes() for p in output.iterdir()}
    (output / "notes.txt").write_text("the user's")
    name = "train-00001-of-00002"
    (output / name).write_bytes(before[name][:-1])
    with pytest.raises(DatasetError, match=f"{name}.*01_data_conversion"):
        load_manifest(output)
    convert(layout, output, **SHARDS)
    assert name in capsys.readouterr().out
    before["notes.txt"] = b"the user's"
    assert {p.name: p.read_bytes() for p in output.iterdir()} == before
    convert(layout, output, train_shards=3, validation_shards=1)
    assert len(list(output.glob("train-*"))) == 3
    load_manifest(output)


def test_never_touches_a_users_folder(layout, tmp_path):
    output = tmp_path / "records"
    output.mkdir()
    (output / "thesis.tex").write_text("x")
    with pytest.raises(DatasetError, match="holds no manifest.json; choose"):
        convert(layout, output)
    assert os.listdir(output) == ["thesis.tex"]
    with pytest.raises(DatasetError, match="run notebooks/01_data_conversion.ipynb"):
        load_manifest(output)


def test_official_classes_are_held_to_the_official_counts(layout, tmp_path, monkeypatch):
    digest = hashlib.sha256(b"n01\nn02\nn03").hexdigest()
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL_CLASSES_SHA256", digest)
    assert_refused(layout, "6 train images of n01", "500")
    counts = {"train": TRAIN, "validation": VAL}
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL_CLASS_COUNTS", counts)
    assert convert(layout, tmp_path / "whole")["dataset"] == "tiny-imagenet"
    annotations = layout / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines(keepends=True)
    annotations.write_text("".join(line for line in lines if "n03" not in line))
    for line in lines:
        if "n03" in line:
            (layout / "val/images" / line.split("\t")[0]).unlink()
    assert_refused(layout, "0 validation images of n03")


def test_full_disk_is_seen_before_the_work(layout, monkeypatch):
    usage = shutil.disk_usage(layout)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert_refused(layout, "full", "free disk space")


@pytest.mark.parametrize("address", [str, Path.as_uri])
def test_a_full_disk_is_seen_before_a_tar_is_unpacked(layout, tmp_path, monkeypatch, address):
    archive = pack_tar(layout, tmp_path / "a.tar")
    usage = shutil.disk_usage(layout)._replace(free=archive.stat().st_size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(archives, "_tar_members", None)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(archives, "DOWNLOAD_CACHE", str(tmp_path / "cache"))
    assert_refused(address(archive), "full", "free disk space", "another folder")


def test_an_interrupt_leaves_nothing(layout, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(write_records, "encode_record", interrupt)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        convert(layout, tmp_path / "records")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("packed", [False, True])
def test_full_disk_while_writing(layout, tmp_path, packed):
    archive = pack_tar(layout, tmp_path / "a.tar.xz") if packed else layout
    code = (
        "from utils.data.prepare import prepare_dataset\n"
        f"prepare_dataset('tiny-imagenet', 'records', archive={str(archive)!r})"
    )
    before = sorted(os.listdir(tmp_path))
    root = Path(write_records.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "DatasetError: Writing records failed" in done.stderr
    assert "File too large" in done.stderr
    assert "choose another folder, then convert again" in done.stderr
    assert "free disk space" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif("FISHNET_SHARED" not in os.environ, reason="FISHNET_SHARED is not set")
def test_the_real_archive(tmp_path):
    archive = Path(os.environ["FISHNET_SHARED"], "data", "tiny-imagenet-200.tar.xz")
    manifest = convert(archive, tmp_path / "records")
    assert manifest["dataset"] == "tiny-imagenet"
    assert manifest["counts"] == {"train": 100_000, "validation": 10_000, "holdout": 10_000}
    assert manifest["grayscale"] == {"train": 1821, "validation": 168}
    assert set(manifest["class_counts"]["train"]) == {500}
    named = read_result("report/results/simple-tuned-8ep-seed0.json")["dataset"]
    assert manifest_sha256(manifest) == named["manifest_sha256"]
