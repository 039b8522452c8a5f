import functools
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from utils import archives, imagenet_layout, tiny_imagenet
from utils.tiny_imagenet import DatasetError, convert, load_manifest, prepare_dataset

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


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "tiny"
    for name, data in sample_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


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


def assert_refused(archive, *texts, **options):
    """The error names the file, and nothing is left behind."""
    output = Path(str(archive).removeprefix("file://")).parent / "records"
    before = sorted(os.listdir(output.parent))
    with pytest.raises(DatasetError) as error:
        convert(archive, output, **options)
    for text in texts:
        assert text in str(error.value)
    assert sorted(os.listdir(output.parent)) == before


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
        imagenet_layout.ImageFile(f"train/{wnid}/images/{wnid}_{i}.JPEG", wnid)
        for wnid, number in (("n01", 120), ("n02", 61))
        for i in range(number)
    ]
    sample = imagenet_layout.Layout(["n01", "n02"], [], False, {"train": images})
    names = tiny_imagenet._holdout(sample)
    assert Counter(name[:3] for name in names) == {"n01": 50, "n02": 30}
    assert names == sorted(set(names))
    assert names == tiny_imagenet._holdout(sample)
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


def remove(name):
    return lambda root: (root / name).unlink()


def append(name, text):
    return lambda root: (root / name).write_text((root / name).read_text() + text)


def write(name, data):
    def action(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return action


IMAGE = "train/n01/images/n01_0.JPEG"
ANNOTATIONS = "val/val_annotations.txt"
BOXES = "train/n01/n01_boxes.txt"


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (lambda root: shutil.rmtree(root / "train" / "n01"), ["train/n01 is missing", "wnids.txt"]),
        (lambda root: (root / "train" / "n07").mkdir(), ["train/n07 has no wnid", "agree"]),
        (write("train/n07/images/n07_0.JPEG", b""), ["train/n07 has no wnid"]),
        (
            lambda root: [file.unlink() for file in (root / "train/n02/images").iterdir()],
            ["train/n02/images holds no image"],
        ),
        (write(IMAGE, b"not an image"), [IMAGE, "cannot be decoded", "replace it"]),
        (write(IMAGE, jpeg()[:-200]), [IMAGE, "truncated"]),
        (write(IMAGE, jpeg("L")[:-2]), [IMAGE, "truncated"]),
        (write(IMAGE, jpeg(size=(64, 63))), [IMAGE, "64x63"]),
        (write(IMAGE, jpeg("CMYK")), [IMAGE, "CMYK"]),
        (write(IMAGE, jpeg(kind="PNG")), [IMAGE, "cannot be decoded"]),
        (remove("val/images/val_5.JPEG"), [ANNOTATIONS, "val_5.JPEG", "restore"]),
        (write("val/images/extra.JPEG", jpeg()), ["extra.JPEG is not in", "add its line"]),
        (append(ANNOTATIONS, "val_0.JPEG\tn01\t0\t0\t5\t5\n"), ["val_0.JPEG is listed twice"]),
        (append(ANNOTATIONS, "val_99.JPEG\tn42\t0\t0\t5\t5\n"), ["unknown wnid n42"]),
        (append(ANNOTATIONS, "val_0.JPEG n01\n"), [ANNOTATIONS, "line 13 is malformed"]),
        (append(BOXES, "n01_0.JPEG\t9\t9\t5\t20\n"), [BOXES, "line 7 is malformed"]),
        (append(BOXES, "n01_0.JPEG\tnan\t9\t5\t20\n"), [BOXES, "malformed"]),
        (append(BOXES, "n01_77.JPEG\t0\t0\t5\t5\n"), [BOXES, "n01_77.JPEG", "remove the line"]),
        (append("wnids.txt", "n01\n"), ["wnids.txt", "twice"]),
        (remove("wnids.txt"), ["0 folders with a wnids.txt", "layout"]),
        (remove("words.txt"), ["words.txt is missing"]),
        (remove(ANNOTATIONS), [f"{ANNOTATIONS} is missing"]),
        (write("train/n01/images/n02_0.JPEG", jpeg()), ["2 train images are named n02_0.JPEG"]),
    ],
)
def test_refuses_a_damaged_layout(layout, damage, texts):
    damage(layout)
    assert_refused(layout, str(layout), *texts)


def test_refuses_a_damaged_archive(layout, tmp_path):
    (tmp_path / "in").mkdir()
    whole = pack_zip(layout, tmp_path / "whole.zip").read_bytes()
    bad = tmp_path / "in" / "bad.zip"
    for data in (whole[: len(whole) // 2], whole[:-30], b"no archive", b""):
        bad.write_bytes(data)
        assert_refused(bad, "bad.zip", "truncated, corrupt or not a zip", "get it anew")
    place = whole.index(sample_files()[Path(IMAGE)]) + 500
    bad.write_bytes(whole[:place] + b"XX" + whole[place + 2 :])
    assert_refused(bad, "bad.zip", IMAGE, "CRC")
    for mode in ("w", "w:gz", "w:xz"):
        whole = pack_tar(layout, tmp_path / "whole.tar", mode).read_bytes()
        for cut in (len(whole) // 2, len(whole) // 2 // 512 * 512, len(whole) - 9000):
            bad.write_bytes(whole[:cut] if mode == "w" else whole[: min(cut, len(whole) - 9)])
            assert_refused(bad, "bad.zip", "truncated")
    assert_refused(tmp_path / "in" / "none.zip", "none.zip does not exist")


def test_refuses_unsafe_members(layout, tmp_path):
    for name in ("/etc/x", "a/../../x", "tiny-imagenet-200\\x"):
        bad = pack_zip(layout, tmp_path / "bad.zip")
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(zipfile.ZipInfo("q"), b"")
            archive.filelist[-1].filename = name
        assert_refused(bad, name, "points outside")
    with zipfile.ZipFile(bad := pack_zip(layout, tmp_path / "bad.zip"), "a") as archive:
        link = zipfile.ZipInfo("tiny-imagenet-200/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert_refused(bad, "tiny-imagenet-200/link is a link")
    with (
        zipfile.ZipFile(bad := pack_zip(layout, tmp_path / "bad.zip"), "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("tiny-imagenet-200/wnids.txt", "n01")
    assert_refused(bad, "wnids.txt occurs twice")
    bad = tmp_path / "bad.tar"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        with tarfile.open(pack_tar(layout, bad, "w"), "a") as archive:
            member = tarfile.TarInfo("thing")
            member.type, member.linkname = kind, "wnids.txt"
            archive.addfile(member)
        assert_refused(bad, "thing is a link or a device")
    with tarfile.open(pack_tar(layout, bad, "w"), "a") as archive:
        archive.addfile(tarfile.TarInfo("../x"))
    assert_refused(bad, "../x points outside")


def test_sha256_of_a_local_file(layout, tmp_path):
    path = pack_zip(layout, tmp_path / "a.zip")
    assert_refused(path, "a.zip", "expected 00", "download it again", sha256="00")
    assert_refused(layout, "is a folder", sha256="00")
    convert(path, tmp_path / "records", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_download(layout, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(archives, "DOWNLOAD_CACHE", str(cache))
    (tmp_path / "in").mkdir()
    url = pack_zip(layout, tmp_path / "in" / "a.zip").as_uri()
    sha256 = hashlib.sha256((tmp_path / "in" / "a.zip").read_bytes()).hexdigest()
    assert_refused(url, url, "hash", sha256="0" * 64)
    assert not list((cache / "datasets").iterdir())
    assert_refused((tmp_path / "in" / "none.zip").as_uri(), "none.zip was not downloaded")
    manifest = convert(url, tmp_path / "records", sha256=sha256, **SHARDS)
    (tmp_path / "in" / "a.zip").unlink()  # the copy in the cache is used again
    assert convert(url, tmp_path / "again", sha256=sha256, **SHARDS) == manifest


def test_the_official_url_has_its_sha256(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(archives, "_download", lambda *a: asked.append(a) or tmp_path / "none")
    with pytest.raises(DatasetError):
        convert(tiny_imagenet.OFFICIAL_URL, tmp_path / "records")
    assert asked == [(tiny_imagenet.OFFICIAL_URL, tiny_imagenet.OFFICIAL_SHA256)]


def test_an_archive_in_data_is_taken_instead_of_the_official_url(
    layout, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tar = pack_tar(layout, tmp_path / "data" / "tiny-imagenet-200.tar.xz")
    convert(tiny_imagenet.OFFICIAL_URL, "records", **SHARDS)
    assert "Taking data/tiny-imagenet-200.tar.xz" in capsys.readouterr().out
    pack_zip(layout, tar.with_name("tiny-imagenet-200.zip"))  # not the official one
    with pytest.raises(DatasetError, match=f"expected {tiny_imagenet.OFFICIAL_SHA256}"):
        convert(tiny_imagenet.OFFICIAL_URL, "again")


def test_a_finished_conversion_needs_no_archive(layout, tmp_path, capsys):
    output = tmp_path / "records"
    manifest = convert(layout, output, **SHARDS)
    shutil.rmtree(layout)
    assert convert(layout, output, **SHARDS) == manifest
    assert prepare_dataset("tiny-imagenet", output, archive=layout, **SHARDS) == manifest
    assert "already holds" in capsys.readouterr().out
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
    monkeypatch.setattr(imagenet_layout, "OFFICIAL_CLASSES_SHA256", digest)
    assert_refused(layout, "6 train images of n01", "500")
    counts = {"train": TRAIN, "validation": VAL}
    monkeypatch.setattr(imagenet_layout, "OFFICIAL_CLASS_COUNTS", counts)
    assert convert(layout, tmp_path / "records")["dataset"] == "tiny-imagenet"


def test_full_disk_is_seen_before_the_work(layout, monkeypatch):
    usage = shutil.disk_usage(layout)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert_refused(layout, "full", "make room")


def test_an_interrupt_leaves_nothing(layout, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_imagenet, "_example", interrupt)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        convert(layout, tmp_path / "records")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("packed", [False, True])
def test_full_disk_while_writing(layout, tmp_path, packed):
    archive = pack_tar(layout, tmp_path / "a.tar.xz") if packed else layout
    code = f"from utils.tiny_imagenet import convert; convert({str(archive)!r}, 'records')"
    before = sorted(os.listdir(tmp_path))
    root = Path(tiny_imagenet.__file__).parents[1]
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
    assert "make room on the disk" in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif("FISHNET_SHARED" not in os.environ, reason="FISHNET_SHARED is not set")
def test_the_real_archive(tmp_path):
    start = time.perf_counter()
    archive = Path(os.environ["FISHNET_SHARED"], "data", "tiny-imagenet-200.tar.xz")
    manifest = convert(archive, tmp_path / "records")
    assert manifest["dataset"] == "tiny-imagenet"
    assert manifest["counts"] == {"train": 100_000, "validation": 10_000, "holdout": 10_000}
    assert manifest["grayscale"] == {"train": 1821, "validation": 168}
    assert set(manifest["class_counts"]["train"]) == {500}
    assert time.perf_counter() - start < 90
