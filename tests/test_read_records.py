"""Records are decoded once, into arrays that are whole or made anew."""

import errno
import itertools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import runs
import tensorflow as tf
from layouts import SHARDS, convert

from utils.data import read_records
from utils.data.archives import DatasetError
from utils.data.manifest import load_manifest
from utils.data.read_records import encoded_images, open_arrays


@pytest.fixture
def manifest(copied):
    shutil.rmtree(copied / "decoded", ignore_errors=True)
    return load_manifest(copied)


@pytest.fixture
def decodings(monkeypatch):
    """The splits that were decoded."""
    done, write = [], read_records._write_arrays

    def write_and_note(data_dir, manifest, prefix, *rest):
        done.append(prefix)
        write(data_dir, manifest, prefix, *rest)

    monkeypatch.setattr(read_records, "_write_arrays", write_and_note)
    return done


def features_of(folder, prefix):
    """What TensorFlow reads: the first record of each shard, then the second of each."""
    shards = [list(tf.data.TFRecordDataset(str(p))) for p in sorted(folder.glob(f"{prefix}-0*"))]
    for record in itertools.chain(*itertools.zip_longest(*shards)):
        if record is not None:
            yield tf.train.Example.FromString(record.numpy()).features.feature


def test_arrays_are_what_tensorflow_makes_of_the_records(shapes, layout, tmp_path):
    """Images bit by bit, gray ones among them."""
    own = convert(layout, tmp_path / "own", **SHARDS)
    assert own["grayscale"]["train"] == 1
    for folder, manifest in ((shapes, load_manifest(shapes)), (tmp_path / "own", own)):
        for prefix in ("train", "validation"):
            arrays = open_arrays(folder, manifest, prefix)
            assert len(arrays.labels) == manifest["counts"][prefix]
            for i, feature in enumerate(features_of(folder, prefix)):
                jpeg = feature["image/encoded"].bytes_list.value[0]
                image = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
                np.testing.assert_array_equal(arrays.images[i], image)
                assert arrays.labels[i] == feature["image/class/label"].int64_list.value[0] - 1
                box = [
                    feature[f"image/object/bbox/{edge}"].float_list.value[0]
                    for edge in ("xmin", "ymin", "xmax", "ymax")
                ]
                np.testing.assert_array_equal(arrays.boxes[i], np.float32(box))
                name = feature["image/filename"].bytes_list.value[0].decode()
                assert arrays.held_out[i] == (name in manifest["holdout"])
                if folder == shapes:
                    mask = feature["image/segmentation/class/encoded"].bytes_list.value[0]
                    np.testing.assert_array_equal(arrays.masks[i], tf.io.decode_png(mask)[..., 0])
    assert open_arrays(tmp_path / "own", own, "train").masks is None


@pytest.mark.parametrize("split", ["val", "holdout"])
def test_encoded_images_are_in_the_order_of_the_arrays(shapes, split):
    manifest = load_manifest(shapes)
    arrays = open_arrays(shapes, manifest, "train" if split == "holdout" else "validation")
    images = arrays.images[arrays.held_out] if split == "holdout" else arrays.images
    encoded = encoded_images(shapes, manifest, split)
    assert len(encoded) == len(images)
    for jpeg, image in zip(encoded, images, strict=True):
        decoded = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
        np.testing.assert_array_equal(decoded, image)


def test_records_are_decoded_once(copied, manifest, decodings):
    first = open_arrays(copied, manifest, "train")
    again = open_arrays(copied, manifest, "train")
    open_arrays(copied, manifest, "validation")
    assert decodings == ["train", "validation"]
    np.testing.assert_array_equal(first.images, again.images)
    assert not first.images.flags.writeable


@pytest.mark.parametrize("harm", ["changed", "cut off", "missing", "other index", "other data"])
def test_arrays_that_are_not_whole_are_made_anew(copied, manifest, decodings, harm):
    expected = open_arrays(copied, manifest, "train").images.copy()
    array, index = copied / "decoded" / "train-images.npy", copied / "decoded" / "index.json"
    if harm == "changed":
        runs.damage(array)
    elif harm == "cut off":
        array.write_bytes(array.read_bytes()[:-1])
    elif harm == "missing":
        array.unlink()
    elif harm == "other index":
        index.write_text("[")
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"manifest_sha256": "a"}))
    np.testing.assert_array_equal(open_arrays(copied, manifest, "train").images, expected)
    assert decodings == ["train", "validation"] * 2


def test_arrays_of_other_records_do_not_stay(copied, manifest, layout, tmp_path):
    open_arrays(copied, manifest, "train")
    own = convert(layout, tmp_path / "own", **SHARDS)
    shutil.move(copied / "decoded", tmp_path / "own")
    arrays = open_arrays(tmp_path / "own", own, "train")
    assert (len(arrays.images), arrays.masks) == (18, None)


def test_an_interrupt_leaves_nothing_that_counts(copied, manifest, decodings, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(read_records, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_arrays(copied, manifest, "train")
    assert os.listdir(copied / "decoded") == ["lock"]
    killed = copied / "decoded" / ".unfinished-killed"
    killed.mkdir()
    open_arrays(copied, manifest, "train")
    assert not killed.exists()
    assert decodings == ["train", "validation"] * 2


def test_one_decodes_while_others_wait(copied, manifest, decodings):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: open_arrays(copied, manifest, "train"), range(3)))
    assert decodings == ["train", "validation"]
    assert all((arrays.images == found[0].images).all() for arrays in found)


def test_a_folder_that_cannot_be_written(copied, manifest, tmp_path, monkeypatch, capsys):
    make = Path.mkdir

    def read_only(path, *arguments, **options):
        if copied in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(read_records, "DOWNLOAD_CACHE", str(tmp_path / "cache"))
    arrays = open_arrays(copied, manifest, "train")
    (folder,) = (tmp_path / "cache").iterdir()
    said = f"{copied} cannot be written: its images are decoded into {folder}."
    assert said in capsys.readouterr().out
    np.testing.assert_array_equal(open_arrays(copied, manifest, "train").images, arrays.images)
    assert said not in capsys.readouterr().out
    monkeypatch.setattr(read_records, "DOWNLOAD_CACHE", str(copied / "cache"))
    with pytest.raises(DatasetError, match="Writing decoded images to .* check the permissions or"):
        open_arrays(copied, manifest, "train")


def test_a_full_disk(copied, manifest, monkeypatch):
    usage = shutil.disk_usage(copied)._replace(free=10**6)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage)
        text = r"decoded is full: 1 MB are free and about 6 MB needed; free .* another data_dir"
        with pytest.raises(DatasetError, match=text):
            open_arrays(copied, manifest, "train")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DatasetError, match="No space left.*; free disk space or choose another d"):
        open_arrays(copied, manifest, "train")
    assert os.listdir(copied / "decoded") == ["lock"]


@pytest.mark.parametrize("harm", ["label", "missing", "cut off", "fewer"])
def test_records_that_cannot_be_used_are_named_with_a_remedy(copied, manifest, harm):
    shard = copied / "train-00003-of-00016"
    if harm == "label":
        manifest["classes"] = manifest["classes"][:20]
        reason = "a label is outside the 20 classes of the manifest"
    elif harm == "missing":
        shard.unlink()
        reason = f".*No such file or directory: '{shard}'"
    elif harm == "cut off":
        shard.write_bytes(shard.read_bytes()[:-5])
        reason = f"{shard} is damaged or cut off at byte .*"
    else:
        manifest["shards"] = {k: v for k, v in manifest["shards"].items() if k != shard.name}
        reason = "270 train images of the manifest's 288"
    remedy = "Delete that folder, then run notebooks/01_data_conversion.ipynb, or 03_train"
    text = f"^The records in {copied} cannot be used: {reason}. {remedy}"
    with pytest.raises(DatasetError, match=text):
        open_arrays(copied, manifest, "train")


def test_an_image_that_cannot_be_decoded(copied, manifest, monkeypatch):
    decode = read_records._decode_image

    def cut_off(data, kind, size):
        return decode(data[:-200] if kind == "JPEG" else data, kind, size)

    monkeypatch.setattr(read_records, "_decode_image", cut_off)
    with pytest.raises(
        DatasetError,
        match=r"used: shape\S+JPEG cannot be decoded \(image file is truncated.*Delete that",
    ):
        open_arrays(copied, manifest, "train")
    manifest["image_size"] = 32
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"cannot be decoded \(it has 64x64 pixels\)"):
        open_arrays(copied, manifest, "train")
