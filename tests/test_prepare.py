"""The folder of the records: whose data it holds, and what drive it is on."""

import errno
import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import pytest
from layouts import CLASSES, SHARDS, contents, convert, jpeg, pack_zip

from utils import environment
from utils.data import archives, prepare
from utils.data.archives import DatasetError
from utils.data.imagenet.crops import opencv
from utils.data.manifest import load_manifest
from utils.data.prepare import prepare_dataset

SHARD = "train-00001-of-00002"


@pytest.fixture
def offline(monkeypatch):
    def download(url, sha256):
        raise AssertionError(f"{url} was asked for")

    monkeypatch.setattr(archives, "download", download)


def damage(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_of_two_at_once_one_prepares_and_the_other_takes_what_it_has_made(tmp_path, monkeypatch):
    built, build = [], prepare._build

    def slowly(*given):
        built.append(given)
        time.sleep(0.2)
        return build(*given)

    monkeypatch.setattr(prepare, "_build", slowly)
    options = {"train_per_class": 2, "validation_per_class": 1}
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(prepare_dataset, "tiny-shapes", tmp_path / "records", **options)
            for _ in range(2)
        )
    assert first.result() == second.result()
    assert len(built) == 1


def test_options_of_drawn_records(tmp_path):
    output = tmp_path / "records"
    options = {"train_per_class": 2, "validation_per_class": 1}
    manifest = prepare_dataset("tiny-shapes", output, seed=3, train_shards=2, **options)
    assert manifest["options"] == {"seed": 3, **options}
    shard = output / SHARD
    whole = shard.read_bytes()
    damage(shard)
    assert prepare_dataset("tiny-shapes", output) == manifest  # rebuilt with its own options
    assert shard.read_bytes() == whole
    with pytest.raises(DatasetError, match="holds tiny-shapes with seed=3, not seed=1; choose"):
        prepare_dataset("tiny-shapes", output, seed=1)
    with pytest.raises(ValueError, match="options of tiny-imagenet are: none. Received: seed"):
        prepare_dataset("tiny-imagenet", tmp_path / "other", seed=1)


def test_ones_own_records_are_accepted_without_their_archive(layout, tmp_path, offline):
    output = tmp_path / "records"
    manifest = convert(layout, output, train_shards=3, validation_shards=1)
    before = contents(output)
    shutil.rmtree(layout)
    assert prepare_dataset("tiny-imagenet", output) == manifest
    assert convert(layout, output) == manifest
    assert contents(output) == before


def test_ones_own_records_are_never_replaced_by_others(layout, tmp_path, offline, capsys):
    output = tmp_path / "records"
    convert(layout, output, **SHARDS)
    damage(output / SHARD)
    before = contents(output)
    with pytest.raises(DatasetError) as error:
        prepare_dataset("tiny-imagenet", output)  # whose archive is the official one
    assert f"{output} holds tiny-imagenet-like that was not made from http://cs231n" in str(
        error.value
    )
    assert "Pass the archive that it was made from, or choose another folder" in str(error.value)
    assert f"to be rebuilt (damaged: {SHARD})" in capsys.readouterr().out
    (layout / "train/n01/images/n01_3.JPEG").write_bytes(jpeg(seed=999))
    with pytest.raises(DatasetError, match="another pixel_mean, pixel_std, records_sha256"):
        convert(layout, output)
    (layout / "words.txt").write_text("n01\tanother\n")
    with pytest.raises(DatasetError, match="another words"):
        convert(layout, output, train_shards=5)
    assert contents(output) == before


def test_the_number_of_shards_is_not_the_data(layout, tmp_path):
    two = convert(layout, tmp_path / "two", **SHARDS)
    one = convert(layout, tmp_path / "one", train_shards=1, validation_shards=1)
    assert one["records_sha256"] == two["records_sha256"]
    assert convert(layout, tmp_path / "two", train_shards=1) == one
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    for number in (0, 129, 2.5):
        message = f"train_shards must be a whole number from 1 to 128. Received: {number!r}"
        with pytest.raises(ValueError, match=message):
            convert(layout, tmp_path / "none", train_shards=number)


def test_a_folder_at_home(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    manifest = convert(layout, "~/data", **SHARDS)
    assert load_manifest(tmp_path / "home/data") == manifest


def test_class_names_do_not_make_a_dataset_synthetic(layout, tmp_path):
    for wnid in CLASSES:
        for file in (layout / "train" / wnid).rglob(f"{wnid}_*"):
            file.rename(file.with_name(f"shape-{file.name}"))
        boxes = layout / "train" / wnid / f"shape-{wnid}_boxes.txt"
        boxes.write_text(boxes.read_text().replace(wnid, f"shape-{wnid}"))
        (layout / "train" / wnid).rename(layout / "train" / f"shape-{wnid}")
    for name in ("wnids.txt", "val/val_annotations.txt"):
        text = (layout / name).read_text()
        for wnid in CLASSES:
            text = text.replace(wnid, f"shape-{wnid}")
        (layout / name).write_text(text)
    manifest = convert(layout, tmp_path / "records", **SHARDS)
    assert (manifest["dataset"], manifest["synthetic"]) == ("tiny-imagenet-like", False)


@pytest.mark.parametrize("exists", [False, True])
def test_only_the_output_folder_is_written(layout, tmp_path, monkeypatch, exists):
    """As where it is a mount point, or its parent may not be written."""
    output = tmp_path / "mount" / "records"
    output.parent.mkdir()
    if exists:
        output.mkdir()
        (output / "lost+found").mkdir()
        (output / ".DS_Store").write_text("")

    def guarded(call, allowed=()):
        def guard(path, *args, **kwargs):
            inside = output in Path(path).parents or (Path(path) == output and not exists)
            if tmp_path in Path(path).parents and not inside:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
            return call(path, *args, **kwargs)

        return guard

    for name in ("rename", "replace", "mkdir", "rmdir", "unlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    manifest = convert(layout, output, **SHARDS)
    assert load_manifest(output) == manifest
    left = {"lost+found", ".DS_Store"} if exists else set()
    assert set(os.listdir(output)) == {"manifest.json", *manifest["shards"], *left}


def test_drives_without_chmod_and_fsync(layout, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    usage = shutil.disk_usage(tmp_path)._replace(total=0, used=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert convert(layout, tmp_path / "records", **SHARDS) == load_manifest(tmp_path / "records")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left"), "free disk space or choose another folder"),
        (OSError(errno.EDQUOT, "Quota"), "free disk space or choose another folder"),
        (PermissionError(errno.EACCES, "Denied"), "check the permissions or choose another folder"),
        (OSError(errno.EIO, "Input/output error"), r"error\); choose another folder, then"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_errors_of_the_disk_say_what_helps(layout, tmp_path, monkeypatch, error, advice, exists):
    def fail(*args):
        raise error

    monkeypatch.setattr(prepare, "write_records", fail)
    output = tmp_path / "records"
    if exists:
        output.mkdir()
    with pytest.raises(DatasetError, match=f"Writing {output} failed .*{advice}"):
        convert(layout, output)
    assert output.exists() == exists
    assert not exists or not os.listdir(output)


def test_what_a_killed_conversion_left_goes_after_a_day(layout, tmp_path):
    output = tmp_path / "records"
    old, new = output / ".unfinished-a", output / ".unfinished-b"
    for left in (old, new):
        (left / "records").mkdir(parents=True)
    os.utime(old, (0, 0))
    convert(layout, output, **SHARDS)
    assert list(output.glob(".*")) == [new]  # another process may be at it


def test_an_interrupt_while_publishing_leaves_nothing(layout, tmp_path, monkeypatch):
    replace, moved = os.replace, []

    def interrupt(source, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(layout, tmp_path / "records", **SHARDS)
    assert len(moved) == 2
    assert not (tmp_path / "records").exists()


def test_notebook_01_takes_any_valid_dataset(layout, tmp_path, monkeypatch):
    """18 images, some without a box; the notebook's cells are run but for its first."""
    (layout / "train" / "n01" / "n01_boxes.txt").unlink()
    archive = pack_zip(layout, tmp_path / "own.zip")
    matplotlib.use("Agg")
    monkeypatch.setattr(environment, "QUICK", None)
    book = Path(__file__).parents[1] / "notebooks" / "01_data_conversion.ipynb"
    _, *cells = [c for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    names = {"environment": environment}
    for cell in cells:
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names["archive"], names["output_dir"] = str(archive), str(tmp_path / "records")
            names["figures_dir"] = str(tmp_path / "figures")
    assert names["manifest"]["counts"]["train"] == 18
    assert sum(box is None for _, _, box in names["samples"]) == 6


def test_imagenet_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    opencv.cache_clear()
    with pytest.raises(DatasetError, match="pip install opencv-python-headless"):
        opencv()
