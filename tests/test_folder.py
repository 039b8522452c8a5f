"""Pictures in class folders: what is taken for one, how it is divided, and what is refused."""

import errno
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import runs
from layouts import contents, pack_tar, pack_zip
from PIL import Image

from utils.analysis.classify import classify, load_classifier
from utils.data.archives import DatasetError
from utils.data.datasets.folder import _endings
from utils.data.manifest import load_manifest
from utils.data.prepare import prepare_dataset
from utils.data.read_records import open_arrays, read_examples
from utils.models.build import build_model
from utils.training.predictions import decode_image, is_kept, load_predictions
from utils.training.run import train
from utils.training.run_folder import TrainingError

RED, BLUE = (200, 30, 20), (20, 30, 200)


def picture(path, color=RED, size=(40, 30), seed=None, **options):
    """Saves a picture of one color, or of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    if seed is not None:
        pixels = np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), np.uint8)
        image = Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    """Two classes, six and four pictures."""
    for name, number in (("cat", 6), ("dog", 4)):
        for i in range(number):
            picture(tmp_path / "pets" / name / f"{i}.png", seed=10 * number + i)
    return tmp_path / "pets"


def converted(archive, output=None, **options):
    options = {"image_size": 32, **options}
    output = output or Path(archive).parent / "records"
    return prepare_dataset("folder", output, archive=archive, **options)


def files_of(output, manifest, prefix):
    held = open_arrays(output, manifest, prefix)
    return held.images, held.labels


def refusal(archive, **options):
    with pytest.raises(DatasetError) as error:
        converted(archive, **options)
    assert not (Path(archive).parent / "records").exists()
    return str(error.value).removeprefix(f"{archive}: ")


def test_a_share_of_each_class_is_for_validation(pets, tmp_path):
    manifest = converted(pets, val_share=0.3)
    assert manifest["dataset"] == "folder"
    assert manifest["image_size"] == 32
    assert not manifest["synthetic"]
    assert manifest["classes"] == ["cat", "dog"]
    assert manifest["class_counts"] == {"train": [4, 3], "validation": [2, 1]}
    assert manifest["options"] == {"image_size": 32, "val_share": 0.3}
    assert len(manifest["holdout"]) == 3
    assert all(name.split("/")[0] in ("cat", "dog") for name in manifest["holdout"])
    held = open_arrays(tmp_path / "records", manifest, "train")
    assert held.held_out.sum() == 3  # base names repeat, paths do not
    assert held.images.shape == (7, 32, 32, 3)


def test_more_pictures_leave_the_others_where_they_are(pets, tmp_path):
    def validation(output):
        _, labels = files_of(output, converted(pets, output, val_share=0.3), "validation")
        images, _ = files_of(output, load_manifest(output), "validation")
        return {image.tobytes() for image in images}, len(labels)

    before, count = validation(tmp_path / "a")
    picture(pets / "dog" / "new.png", seed=99)
    after, more = validation(tmp_path / "b")
    assert count == 3
    assert more == 4 or len(before & after) >= 2
    assert len(before & after) >= 2


def test_the_same_from_a_folder_a_zip_and_a_tar(pets, tmp_path):
    nested = tmp_path / "as-zip" / "downloads"
    nested.mkdir(parents=True)
    pets.rename(nested / "pets")
    (nested / "pets" / "cat" / "Thumbs.db").write_text("ignored")
    manifests = [
        converted(archive, tmp_path / f"records-{i}")
        for i, archive in enumerate(
            [nested / "pets", pack_zip(nested, tmp_path / "a.zip"),
             pack_tar(nested, tmp_path / "a.tar.xz"), nested]
        )
    ]  # fmt: skip
    for manifest in manifests:
        manifest.pop("files_sha256")
    assert all(manifest == manifests[0] for manifest in manifests[1:])
    assert contents(tmp_path / "records-0").keys() == contents(tmp_path / "records-1").keys()


@pytest.mark.parametrize(
    ("train", "val", "unused"),
    [("train", "val", None), ("Training", "validation", "test"), ("train", "test", None)],
)
def test_a_split_that_is_there_is_kept(tmp_path, capsys, train, val, unused):
    root = tmp_path / "split"
    for i, (split, number) in enumerate([(train, 3), (val, 2), *([(unused, 1)] if unused else [])]):
        for c, name in enumerate(("a_b", "c")):
            for k in range(number):
                picture(root / split / name / "deeper" / f"{k}.jpg", seed=100 * i + 10 * c + k)
    manifest = converted(root)
    assert manifest["class_counts"] == {"train": [3, 3], "validation": [2, 2]}
    assert manifest["words"] == ["a b", "c"]
    said = "validation/ is the validation set; test/ is not used.\n" if unused else ""
    assert said in capsys.readouterr().out


def test_classes_may_be_called_train_and_test(tmp_path):
    for name in ("train", "bus"):
        for k in range(2):
            picture(tmp_path / "cars" / name / f"{k}.png", seed=len(name) * 10 + k)
    assert converted(tmp_path / "cars")["classes"] == ["bus", "train"]


def exif(orientation):
    tag = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return b"Exif\0\0" + tag


def two_halves(mode="RGB"):
    """Red on the left, blue on the right, twice as wide as high."""
    image = Image.new("RGB", (128, 64), RED)
    image.paste(BLUE, (64, 0, 128, 64))
    return image.convert(mode)


def save_kinds(root):
    """One picture of each kind, most with red on the left and blue on the right."""
    root.mkdir(parents=True)
    for name in ("png", "jpg", "gif", "webp", "bmp", "tiff", "ppm", "jp2", "ico", "tga"):
        two_halves().save(root / f"{name}.{name}")
    two_halves("CMYK").save(root / "cmyk.jpeg", quality=95)
    two_halves("CMYK").save(root / "cmyk.tif")
    two_halves("P").save(root / "palette.PNG")
    two_halves().transpose(Image.Transpose.ROTATE_90).save(
        root / "turned.jpg", exif=exif(6), quality=95
    )
    clear = two_halves("RGBA")
    clear.paste((0, 0, 0, 0), (64, 0, 128, 64))
    clear.save(root / "alpha.png")
    frames = [two_halves(), Image.new("RGB", (128, 64), "black")]
    frames[0].save(root / "animation.gif", save_all=True, append_images=frames[1:])
    gray = np.full((64, 128), 50 * 257, np.uint16)
    gray[:, 64:] = 200 * 257
    Image.fromarray(gray).save(root / "sixteen.png")
    Image.fromarray(gray).save(root / "sixteen.tif")
    two_halves("1").save(root / "one-bit.png")
    two_halves("LA").save(root / "gray-alpha.png")
    return root


def test_pictures_of_any_kind(tmp_path):
    root = tmp_path / "kinds"
    save_kinds(root / "train" / "a")
    picture(root / "train" / "b" / "x.png", BLUE)
    for i, name in enumerate("ab"):
        picture(root / "val" / name / "v.png", seed=i)
    manifest = converted(root)
    number = len(list((root / "train" / "a").iterdir()))
    assert manifest["class_counts"]["train"] == [number, 1]
    names, images = [], []
    for example in read_examples(tmp_path / "records", manifest, "train"):
        feature = example.features.feature
        names.append(Path(feature["image/filename"].bytes_list.value[0].decode()).name)
        data = feature["image/encoded"].bytes_list.value[0]
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.size) == ("JPEG", (32, 32))
        images.append(np.asarray(image.convert("RGB"), int))
    gray = {"sixteen.png": (50, 200), "sixteen.tif": (50, 200)}
    for name, image in zip(names, images, strict=True):
        left, right = image[:, 4:12].mean((0, 1)), image[:, 20:28].mean((0, 1))
        if name in gray:
            expected = [[value] * 3 for value in gray[name]]
        elif name in ("one-bit.png", "gray-alpha.png"):
            assert np.ptp(left) < 3  # gray
            continue
        elif name == "x.png":
            expected = [BLUE, BLUE]
        else:
            expected = [RED, (255, 255, 255) if name == "alpha.png" else BLUE]
        # CMYK without a profile is brighter or darker than what it was made from; hues stay
        off = 40 if "cmyk" in name else 8
        np.testing.assert_allclose([left, right], expected, atol=off, err_msg=name)


def test_a_jpeg_of_the_right_size_stays_as_it_is(pets, tmp_path):
    kept = picture(pets / "cat" / "k.jpg", size=(32, 32), seed=1, quality=30).read_bytes()
    turned = picture(pets / "cat" / "t.jpg", size=(32, 32), seed=2, exif=exif(6)).read_bytes()
    converted(pets)
    records = b"".join(contents(tmp_path / "records").values())
    assert kept in records
    assert turned not in records


def test_unreadable_pictures_are_listed_all_at_once(pets):
    whole = picture(pets / "dog" / "whole.jpg", size=(200, 200), seed=5).read_bytes()
    (pets / "dog" / "whole.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "text.png").write_text("no picture")
    (pets / "cat" / "empty.gif").touch()
    first, *lines = refusal(pets).splitlines()
    assert first == "3 images cannot be used:"
    remedy = "replace or remove it."
    assert f"{pets}: cat/empty.gif is not an image that Pillow can read; {remedy}" in lines
    assert f"{pets}: cat/text.png is not an image that Pillow can read; {remedy}" in lines
    assert any(line.startswith(f"{pets}: dog/whole.jpg cannot be read: ") for line in lines)


def test_the_list_of_unreadable_pictures_ends(pets):
    for i in range(25):
        (pets / "cat" / f"x{i:02}.png").write_text(f"no picture {i}")
    lines = refusal(pets).splitlines()
    assert len(lines) == 22
    assert lines[0] == "25 images cannot be used:"
    assert lines[-1] == "… 5 more"


def test_what_is_no_picture_is_said(pets, capsys):
    (pets / "cat" / "notes.txt").write_text("x")
    (pets / "README").write_text("x")
    manifest = converted(pets)
    assert manifest["counts"]["train"] + manifest["counts"]["validation"] == 10
    out = capsys.readouterr().out
    assert "Not taken for pictures, by the endings of their names: 1 .txt, 1 without ending." in out
    assert {".heic", ".pdf", ".txt"}.isdisjoint(_endings())


def test_copies_within_a_class_count_once(pets, capsys):
    (pets / "cat" / "copy.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    assert sum(map(sum, converted(pets)["class_counts"].values())) == 10
    assert "Left out as copies of other pictures of their class: 1." in capsys.readouterr().out


def test_one_picture_in_two_classes(pets):
    (pets / "dog" / "x.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    assert refusal(pets) == (
        "pictures in two classes or in both splits (1): cat/0.png = dog/x.png; keep one of each."
    )


def split_of(pets):
    """The same pictures with a split."""
    root = pets.parent / "split"
    for i, file in enumerate(sorted(pets.rglob("*.png"))):
        target = root / ("val" if i % 2 else "train") / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return root


def test_one_picture_in_both_splits(pets):
    root = split_of(pets)
    for name in ("a.png", "b.png"):
        (root / "train" / "dog" / name).write_bytes((root / "val/dog/3.png").read_bytes())
    assert refusal(root) == (
        "pictures in two classes or in both splits (1): train/dog/a.png = val/dog/3.png; "
        "keep one of each."
    )


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


def test_a_test_set_without_classes_is_left_out(pets, tmp_path, capsys):
    root = tmp_path / "kaggle"
    root.mkdir()
    pets.rename(root / "train")
    picture(root / "test" / "1.png", seed=90)
    manifest = converted(root, tmp_path / "a", val_share=0.3)
    assert manifest["class_counts"] == {"train": [4, 3], "validation": [2, 1]}
    assert "test/ has no class folders and is not used.\n" in capsys.readouterr().out
    (root / "test").rename(root / "val")
    assert refusal(root) == (
        "pictures in no class folder (1): val/1.png; move each into the folder of its class."
    )


@pytest.mark.parametrize(("train", "val"), [("train_set", "test_set"), ("Train", "dev")])
def test_splits_by_other_names_are_not_taken_for_classes(pets, train, val):
    root = split_of(pets)
    (root / "train").rename(root / train)
    (root / "val").rename(root / val)
    assert refusal(root) == (
        f"{train}/ and {val}/ hold the same folders, cat, dog; name the splits train/ and val/."
    )


def test_folders_beside_a_split(pets):
    root = split_of(pets)
    (root / "annotations").mkdir()
    (root / "annotations" / "a.xml").write_text("x")
    assert converted(root, root.parent / "a")["classes"] == ["cat", "dog"]
    picture(root / "masks" / "a.png", seed=91)
    assert refusal(root) == (
        "pictures beside train/ and val/, in masks; move these folders away, or, if all of them "
        "are classes, rename those two."
    )


def test_records_among_the_pictures_are_refused(pets):
    with pytest.raises(DatasetError) as error:
        converted(pets, pets / "records")
    assert str(error.value) == (
        f"{pets / 'records'} is in {pets}, among the pictures; choose another output_dir."
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


def test_records_of_changed_pictures_are_not_taken_for_theirs(pets, tmp_path, capsys):
    manifest = converted(pets)
    assert converted(pets) == manifest
    assert "already holds folder" in capsys.readouterr().out
    pets.rename(tmp_path / "elsewhere")
    assert converted(pets) == manifest  # without the pictures there is nothing to compare with
    (tmp_path / "elsewhere").rename(pets)
    picture(pets / "cat" / "new.png", seed=50)
    with pytest.raises(DatasetError) as error:
        converted(pets)
    output = tmp_path / "records"
    assert str(error.value) == (
        f"The pictures in {pets} are not those any more that {output} was made from. To convert "
        f"them anew, delete {output} or choose another data_dir."
    )
    with pytest.raises(DatasetError, match="holds folder with image_size=32, not image_size=64;"):
        converted(pets, image_size=64)


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


@pytest.mark.tracing
def test_fine_tuning_and_classifying(make_config, tmp_path, capsys):
    """From a network of 64 pixels and other classes to one of 96; all stays in the run's folder."""
    build_model(runs.SMALL, num_classes=5, normalization=([0] * 3, [1] * 3)).save(
        tmp_path / "start.keras"
    )
    root = tmp_path / "colors"
    for i in range(16):
        picture(root / "red" / f"{i}.png", (200 + i, i, i))
        picture(root / "blue" / f"{i}.png", (i, i, 200 + i))
    options = {"dataset": "folder", "archive": str(root), "image_size": 96, "val_share": 0.25}
    options |= {"initial_weights": str(tmp_path / "start.keras"), "batch_size": 8, "epochs": 1}
    config = make_config("first", data_dir=str(tmp_path / "records"), **options).resolve()
    manifest = prepare_dataset(
        config.dataset, config.data_dir, archive=config.archive, **config.data_options
    )
    result = train(config)
    assert "start.keras; new: logits." in capsys.readouterr().out
    assert result["dataset"]["name"] == "folder"
    assert result["dataset"]["counts"] == {"train": 24, "validation": 8, "holdout": 12}
    assert (result["config"]["image_size"], result["config"]["val_share"]) == (96, 0.25)
    assert "archive" not in result["config"]
    assert config.archive in result["command"]
    assert config.result_file == Path(config.run_dir, "first.json")
    kept = load_predictions(Path(config.run_dir, "first.npz"))
    assert decode_image(kept["jpeg"][0]).shape == (96, 96, 3)
    assert len(kept["jpeg"]) >= 8
    assert not is_kept(result)

    model, words = load_classifier(config.run_dir)
    assert words == manifest["words"] == ["blue", "red"]
    assert model.input_shape == (None, 96, 96, 3)
    table = classify(model, words, root / "red")
    assert len(table) == 32  # two classes for each of 16 files
    with pytest.raises(TrainingError, match="holds folder, not tiny-imagenet"):
        train(make_config("x", dataset="tiny-imagenet", data_dir=config.data_dir))
