import errno
import io
import os
import time
import types
import zipfile

import keras
import numpy as np
import psutil
import pytest

from utils.files import compact_model, is_mounted, replacing, save_model, write_advice


@pytest.fixture
def model():
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential(layers)
    model.layers[-1].moving_variance.assign(np.full(16, 1e6, "float32"))  # beyond float16
    return model


def test_a_compact_model_loads_as_float32(model, tmp_path):
    model.save(tmp_path / "model.keras")
    (tmp_path / "compact.keras").write_bytes(compact_model(tmp_path / "model.keras"))
    loaded = keras.models.load_model(tmp_path / "compact.keras")
    assert {weight.dtype for weight in loaded.weights} == {"float32"}
    for weight, full in zip(loaded.weights, model.weights, strict=True):
        expected = np.array(full)
        if expected.ndim > 1:
            expected = expected.astype(np.float16)
        np.testing.assert_array_equal(np.array(weight), expected)


def test_a_compact_model_has_the_same_bytes_each_time(model, tmp_path):
    model.save(tmp_path / "model.keras")
    compact = compact_model(tmp_path / "model.keras")
    time.sleep(1.1)  # some formats store the second
    assert compact_model(tmp_path / "model.keras") == compact
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as old,
        zipfile.ZipFile(io.BytesIO(compact)) as new,
    ):
        assert old.namelist() == new.namelist()
        assert old.read("config.json") == new.read("config.json")


def test_a_kernel_beyond_float16_is_refused(model, tmp_path):
    model.layers[0].kernel.assign(np.full((3, 3, 3, 16), 1e5, "float32"))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="beyond float16"):
        compact_model(tmp_path / "model.keras")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM])
def test_replacing_where_fsync_and_chmod_are_not_supported(tmp_path, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    for text in ("first", "second"):
        with replacing(tmp_path / "new" / "file.txt", "w") as file:
            file.write(text)
        assert (tmp_path / "new" / "file.txt").read_text() == text
    assert os.listdir(tmp_path / "new") == ["file.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_replacing_keeps_the_earlier_file_when_the_disk_loses_the_new_one(
    tmp_path, monkeypatch, number
):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_bytes(b"first")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(number)), replacing(tmp_path / "file") as file:
        file.write(b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_leaves_is_of_no_kind(tmp_path):
    with replacing(tmp_path / "run.json", "w") as file:
        file.write("{")
        file.flush()
        assert not list(tmp_path.glob("*.json"))  # which would take a hidden file, too
        assert [path.read_text() for path in tmp_path.glob(".unfinished-*/*")] == ["{"]
    assert os.listdir(tmp_path) == ["run.json"]


def test_what_a_killed_process_left_goes_with_the_next_write_after_a_day(tmp_path):
    old, new = tmp_path / ".unfinished-a", tmp_path / ".unfinished-b"
    for left in (old, new):
        left.mkdir()
        (left / "run.json").write_text("{")
    os.utime(old, (0, 0))
    with replacing(tmp_path / "run.json", "w") as file:
        file.write("{}")
    assert sorted(os.listdir(tmp_path)) == [new.name, "run.json"]  # another process may be at it


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_model_that_cannot_be_saved_leaves_nothing(tmp_path):
    class Model:
        def save(self, path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "full")

    (tmp_path / "model.keras").write_bytes(b"first")
    with pytest.raises(OSError, match="full"):
        save_model(Model(), tmp_path / "model.keras")
    assert os.listdir(tmp_path) == ["model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "free disk space or choose another folder"),
        (errno.EDQUOT, "free disk space or choose another folder"),
        (errno.EACCES, "check the permissions or choose another folder"),
        (errno.EROFS, "check the permissions or choose another folder"),
        (errno.EBUSY, "choose another folder"),
        (None, "choose another folder"),
    ],
)
def test_advice_fits_the_error(number, text):
    assert write_advice(number, "choose another folder") == text


def test_a_link_to_a_drive_is_a_drive(tmp_path, monkeypatch):
    drive = types.SimpleNamespace(mountpoint=str(tmp_path / "drive"), fstype="fuse.drive")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [drive])
    (tmp_path / "drive").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "drive")
    assert is_mounted(tmp_path / "runs" / "a")
    assert not is_mounted(tmp_path / "elsewhere")
