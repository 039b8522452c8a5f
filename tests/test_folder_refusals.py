"""Pictures in class folders: what is refused, and what the message says."""

import errno
import os
import zipfile

import pytest
from pictures import converted, picture, refusal, split_of

from utils.data.archives import DatasetError
from utils.data.prepare import prepare_dataset


def test_classes_of_one_split_alone(pets):
    root = split_of(pets)
    picture(root / "val" / "fish" / "a.png", seed=70)
    assert refusal(root) == (
        "classes in validation alone: fish; give both the same class folders, or leave out the "
        "split: then it is made."
    )
    picture(root / "train" / "fish" / "b.png", seed=71)
    picture(root / "train" / "bird" / "b.png", seed=72)
    assert "classes in train alone: bird;" in refusal(root)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("one", "class folders with one picture: fish; a class needs two that differ, one to train "
         "on and one to validate with."),
        ("empty", "class folders without a picture: fish; put pictures there or remove the "
         "folders."),
        ("stray", "pictures in no class folder (1): stray.png; move each into the folder of its "
         "class."),
        ("copies", "class folders with one picture: fish; a class needs two that differ, one to "
         "train on and one to validate with."),
    ],
)  # fmt: skip
def test_folders_that_are_refused(pets, change, text):
    (pets / "fish").mkdir(exist_ok=True)
    if change == "stray":
        (pets / "fish").rmdir()
        picture(pets / "stray.png", seed=44)
    elif change != "empty":
        picture(pets / "fish" / "1.png", seed=33)
        if change == "copies":
            picture(pets / "fish" / "2.png", seed=33)
    assert refusal(pets) == text


def test_files_that_are_not_there_or_not_ours_are_listed_with_the_others(pets):
    for name in ("a", "b"):  # two of one size
        (pets / "cat" / f"{name}.png").symlink_to("/nowhere.png")
    (pets / "dog" / "text.png").write_text("no picture")
    first, *lines = refusal(pets).splitlines()
    assert first == "3 images cannot be used:"
    error = "cannot be read ([Errno 2] No such file or directory: "
    for name in ("a", "b"):
        path = pets / "cat" / f"{name}.png"
        assert f"{pets}: cat/{name}.png {error}'{path}'); replace or remove it." in lines


def test_links_to_folders_are_followed_but_not_in_circles(pets, tmp_path):
    for i in range(2):
        picture(tmp_path / "elsewhere" / f"{i}.png", seed=200 + i)
    (pets / "fish").symlink_to(tmp_path / "elsewhere")
    assert converted(pets, tmp_path / "a")["classes"] == ["cat", "dog", "fish"]
    (pets / "cat" / "loop").symlink_to(pets)
    assert refusal(pets) == f"{pets / 'cat' / 'loop'} links to a folder that it is in; remove it."


def test_what_cannot_be_listed_or_named(pets, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path) == str(pets / "dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        assert refusal(pets) == (
            f"{pets / 'dog'} cannot be read (Permission denied); check its permissions."
        )
    os.mkfifo(pets / "cat" / "pipe.png")  # whoever read it would wait for ever
    assert refusal(pets) == ("cat/pipe.png is a link or a device; pass an archive of files only.")
    (pets / "cat" / "pipe.png").unlink()
    picture(pets / "cat" / "x.png", seed=77).rename(os.fsdecode(bytes(pets) + b"/cat/\xff.png"))
    assert refusal(pets) == r"the name cat/\udcff.png is not UTF-8; rename it."


def test_records_among_the_pictures_are_refused(pets):
    with pytest.raises(DatasetError) as error:
        converted(pets, pets / "records")
    assert str(error.value) == (
        f"{pets / 'records'} is in {pets}, among the pictures; choose another folder."
    )
    assert not (pets / "records").exists()


def test_the_home_folder_is_found(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert converted("~/pets", tmp_path / "records")["classes"] == ["cat", "dog"]


def test_one_class_alone(tmp_path):
    picture(tmp_path / "pets" / "cat" / "a.png")
    assert refusal(tmp_path / "pets") == (
        "there must be class folders of pictures, at least two. Received: cat"
    )


def test_archives_are_as_safe_as_those_of_tiny_imagenet(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/../../x.png", b"x")
    assert refusal(path) == ("cat/../../x.png points outside of the archive; do not use this file.")


def test_a_manifest_of_another_version(pets, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records/manifest.json").write_text('{"schema": 1}')
    with pytest.raises(DatasetError, match="manifest.json has another schema; delete .*records, "):
        converted(pets)


@pytest.mark.parametrize("left", ['{"schema": 2, "cl', ""])
def test_a_half_written_manifest(pets, tmp_path, left):
    output = tmp_path / "records"
    output.mkdir()
    (output / "manifest.json").write_text(left)
    with pytest.raises(DatasetError) as error:
        converted(pets)
    text = str(error.value)
    assert text.startswith(f"{output / 'manifest.json'} is damaged or half-written (")
    assert text.endswith(
        f"; delete {output}, then run notebooks/01_data_conversion.ipynb, or 03_train for pictures "
        "of your own."
    )


def test_without_an_archive_there_must_be_records(tmp_path):
    with pytest.raises(DatasetError) as error:
        prepare_dataset("folder", tmp_path / "records")
    assert str(error.value) == (
        f"{tmp_path / 'records'} holds no records yet; give the archive that they are made from."
    )
