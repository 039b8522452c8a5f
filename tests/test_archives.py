import hashlib
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import tensorflow as tf
from layouts import (
    SHARDS,
    assert_refused,
    convert,
    jpeg,
    pack_tar,
    pack_zip,
    records,
    sample_files,
)

from utils.data import archives
from utils.data.archives import DatasetError
from utils.data.prepare import OFFICIAL_SHA256, OFFICIAL_URL
from utils.data.read_records import open_arrays


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
            ["train/n02/images holds no image", "drop the class"],
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
        assert_refused(bad, "bad.zip", "truncated, corrupt or not a zip", "download it again")
    other = "train/n02/images/n02_3.JPEG"
    damaged = bytearray(whole)
    for name, texts in ((IMAGE, ()), (other, (other, "2 images"))):
        place = whole.index(sample_files()[Path(name)]) + 500
        damaged[place : place + 2] = b"XX"
        bad.write_bytes(damaged)
        assert_refused(bad, "bad.zip", IMAGE, "CRC", *texts)
    encrypted = bytearray(whole)
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of a file, and in the list of all
        encrypted[encrypted.index(mark) + flags] |= 1
    bad.write_bytes(encrypted)
    assert_refused(bad, "bad.zip", "is encrypted; pass a plain archive")
    for mode in ("w", "w:gz", "w:xz"):
        whole = pack_tar(layout, tmp_path / "whole.tar", mode).read_bytes()
        for cut in (len(whole) // 2, len(whole) // 2 // 512 * 512, len(whole) - 9000):
            bad.write_bytes(whole[:cut] if mode == "w" else whole[: min(cut, len(whole) - 9)])
            assert_refused(bad, "bad.zip", "truncated")
    assert_refused(tmp_path / "in" / "none.zip", "none.zip does not exist")


def test_refuses_unsafe_members(layout, tmp_path):
    for name in ("/etc/x", "a/../../x", "..\\x", "\\etc\\x"):
        bad = pack_zip(layout, tmp_path / "bad.zip")
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(zipfile.ZipInfo("q"), b"")
            archive.filelist[-1].filename = name
        assert_refused(bad, name.replace("\\", "/"), "points outside")
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
    path = pack_zip(layout, tmp_path / "in" / f"{'signature' * 27}.zip")  # as long as a name may be
    url, sha256 = path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()
    assert_refused(url, url, "hash", sha256="0" * 64)
    assert not list((cache / "datasets").iterdir())
    assert_refused((tmp_path / "in" / "none.zip").as_uri(), "none.zip was not downloaded")
    manifest = convert(url, tmp_path / "records", sha256=sha256, **SHARDS)
    path.unlink()  # the copy in the cache is used again
    assert convert(url, tmp_path / "again", sha256=sha256, **SHARDS) == manifest


def test_the_official_url_has_its_sha256(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(archives, "download", lambda *a: asked.append(a) or tmp_path / "none")
    with pytest.raises(DatasetError):
        convert(OFFICIAL_URL, tmp_path / "records")
    assert asked == [(OFFICIAL_URL, OFFICIAL_SHA256)]


def test_an_archive_in_data_is_taken_instead_of_the_official_url(
    layout, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tar = pack_tar(layout, tmp_path / "data" / "tiny-imagenet-200.tar.xz")
    convert(OFFICIAL_URL, "records", **SHARDS)
    assert "Taking data/tiny-imagenet-200.tar.xz" in capsys.readouterr().out
    pack_zip(layout, tar.with_name("tiny-imagenet-200.zip"))  # not the official one
    with pytest.raises(DatasetError, match=f"expected {OFFICIAL_SHA256}"):
        convert(OFFICIAL_URL, "again")


def as_written_by_windows(path):
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("/", "\\"), data)
    return path


def test_other_ways_to_pack_the_same_files(layout, tmp_path):
    expected = convert(layout, tmp_path / "expected", **SHARDS)
    for index, path in enumerate(
        [
            as_written_by_windows(pack_zip(layout, tmp_path / "a.zip")),
            pack_tar(layout, tmp_path / "a.tar.bz2", "w:bz2"),
        ]
    ):
        assert convert(path, tmp_path / str(index), **SHARDS) == expected
    whole = (tmp_path / "a.tar.bz2").read_bytes()
    bad = tmp_path / "bad.tar.bz2"
    for data in (whole[:-9], whole[:200] + b"XX" + whole[202:]):
        bad.write_bytes(data)
        assert_refused(bad, "bad.tar.bz2 is truncated, corrupt or not", "download it again")


def test_files_of_systems_and_tools_are_ignored(layout, tmp_path):
    expected = convert(layout, tmp_path / "expected", **SHARDS)
    for folder in ("", "train", "train/n01", "train/n01/images", "val", "val/images"):
        for name in ("Thumbs.db", "thumbs.db", ".gitkeep", "desktop.ini", ".DS_Store", "._x.JPEG"):
            (layout / folder / name).write_text("")
        for name in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
            (layout / folder / name).mkdir()
            (layout / folder / name / "n01_0.JPEG").write_text("")
    assert convert(layout, tmp_path / "folder", **SHARDS) == expected
    assert convert(pack_zip(layout, tmp_path / "a.zip"), tmp_path / "zip", **SHARDS) == expected


def test_bytes_behind_the_end_of_a_whole_jpeg(layout, tmp_path):
    data = (layout / IMAGE).read_bytes()
    (layout / IMAGE).write_bytes(data + b"\0\0camera")
    manifest = convert(layout, tmp_path / "out", **SHARDS)
    images = open_arrays(tmp_path / "out", manifest, "train").images
    decoded = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE").numpy()
    assert (images == decoded).all(axis=(1, 2, 3)).sum() == 1
    # A thumbnail has an end marker of its own; the image behind it is cut off.
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2) + data
    (layout / IMAGE).write_bytes(data[:2] + thumbnail + data[2:-2])
    assert_refused(layout, IMAGE, "truncated")


@pytest.mark.parametrize("folder", ["", "images"])
def test_validation_sorted_for_imagefolder(layout, tmp_path, folder):
    expected = convert(layout, tmp_path / "expected", **SHARDS)
    for line in (layout / ANNOTATIONS).read_text().splitlines():
        base, wnid, *_ = line.split("\t")
        target = layout / "val" / wnid / folder
        target.mkdir(parents=True, exist_ok=True)
        (layout / "val" / "images" / base).rename(target / base)
    (layout / ANNOTATIONS).unlink()
    (layout / "val" / "images").rmdir()
    manifest = convert(layout, tmp_path / "out", **SHARDS)
    assert manifest["class_counts"] == expected["class_counts"]
    labels, known = (
        {
            e.features.feature["image/filename"].bytes_list.value[0]: (
                e.features.feature["image/class/label"].int64_list.value[0],
                e.features.feature["image/encoded"].bytes_list.value[0],
            )
            for e in records(tmp_path / name, "validation")
        }
        for name in ("out", "expected")
    )
    assert labels == known
    (layout / "val" / "n77").mkdir()
    assert_refused(layout, "val/n77 has no wnid in wnids.txt")


def test_train_sorted_for_imagefolder(layout, tmp_path):
    expected = convert(layout, tmp_path / "expected", **SHARDS)
    for images in layout.glob("train/*/images"):
        for file in images.iterdir():
            file.rename(images.parent / file.name)
        images.rmdir()
    assert convert(layout, tmp_path / "out", **SHARDS) == expected


def test_a_dataset_without_validation_images(layout):
    shutil.rmtree(layout / "val" / "images")
    (layout / "val" / "n01").mkdir()
    assert_refused(layout, "no validation image was found; pass the complete dataset")
