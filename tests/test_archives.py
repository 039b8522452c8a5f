import hashlib
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from layouts import SHARDS, assert_refused, jpeg, pack_tar, pack_zip, sample_files

from utils.data import archives, tfrecords
from utils.data.archives import DatasetError
from utils.data.tfrecords import convert


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
        convert(tfrecords.OFFICIAL_URL, tmp_path / "records")
    assert asked == [(tfrecords.OFFICIAL_URL, tfrecords.OFFICIAL_SHA256)]


def test_an_archive_in_data_is_taken_instead_of_the_official_url(
    layout, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tar = pack_tar(layout, tmp_path / "data" / "tiny-imagenet-200.tar.xz")
    convert(tfrecords.OFFICIAL_URL, "records", **SHARDS)
    assert "Taking data/tiny-imagenet-200.tar.xz" in capsys.readouterr().out
    pack_zip(layout, tar.with_name("tiny-imagenet-200.zip"))  # not the official one
    with pytest.raises(DatasetError, match=f"expected {tfrecords.OFFICIAL_SHA256}"):
        convert(tfrecords.OFFICIAL_URL, "again")
