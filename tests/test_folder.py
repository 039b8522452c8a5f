"""Pictures in class folders: how they are divided, converted once, and trained with."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
from layouts import contents, pack_tar, pack_zip
from pictures import converted, files_of, picture, refusal, split_of
from PIL import Image

from utils.analysis.classify import classify, load_classifier
from utils.data import prepare
from utils.data.archives import DatasetError
from utils.data.datasets import tiny_shapes
from utils.data.manifest import load_manifest
from utils.data.prepare import prepare_dataset
from utils.data.read_records import open_arrays
from utils.models.build import build_model
from utils.training.predictions import decode_image, is_kept, load_predictions
from utils.training.run import train


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
    assert (count, more) == (3, 4)
    assert before < after


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
    said = "validation/ is the validation set; test/ is not used.\n"
    assert (said in capsys.readouterr().out) == bool(unused)


def test_classes_may_be_called_train_and_test(tmp_path):
    for name in ("train", "bus"):
        for k in range(2):
            picture(tmp_path / "cars" / name / f"{k}.png", seed=len(name) * 10 + k)
    assert converted(tmp_path / "cars")["classes"] == ["bus", "train"]


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


@pytest.mark.parametrize(
    ("train", "val"), [("train_set", "test_set"), ("Train", "dev"), ("seg_train", "seg_test")]
)
def test_splits_by_other_names_are_not_taken_for_classes(pets, train, val):
    root = split_of(pets)
    (root / "train").rename(root / train)
    (root / "val").rename(root / val)
    assert refusal(root) == (
        f"{train}/ and {val}/ hold the same folders, cat, dog; name the splits train/ and val/."
    )


def test_nested_splits_by_other_names_are_not_taken_for_classes(pets):
    root = split_of(pets)
    for old, new in (("train", "training_set"), ("val", "test_set")):
        (root / new).mkdir()
        (root / old).rename(root / new / new)
    assert "test_set/ hold the same folders, cat, dog;" in refusal(root)


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


def test_a_zip_needs_no_room_as_it_is_read_where_it_is(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / "large" / name).parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (400, 400, 3), np.uint8))
        noise.save(tmp_path / "large" / f"{name}.png")
    path = pack_zip(tmp_path / "large", tmp_path / "large.zip")
    usage = shutil.disk_usage(tmp_path)._replace(free=path.stat().st_size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert converted(path, tmp_path / "records")["class_counts"]["train"] == [1, 1]


def test_records_of_a_changed_archive_are_not_taken_for_its_own(pets, tmp_path):
    archive, output = pack_zip(pets, tmp_path / "pets.zip"), tmp_path / "records"
    manifest = converted(archive, output)
    assert converted(archive, output) == manifest
    picture(pets / "cat" / "new.png", seed=50)
    archive.unlink()
    pack_zip(pets, archive)
    with pytest.raises(DatasetError, match="pets.zip are not those any more that .* was made from"):
        converted(archive, output)


def test_a_tar_is_unpacked_beside_its_records_each_time(pets, tmp_path, monkeypatch):
    used, opened = [], prepare.open_archive

    def open_in(archive, scratch, **options):
        used.append(Path(scratch).parent)
        return opened(archive, scratch, **options)

    monkeypatch.setattr(prepare, "open_archive", open_in)
    archive, output = pack_tar(pets, tmp_path / "pets.tar.xz"), tmp_path / "records"
    assert converted(archive, output) == converted(archive, output)
    assert used == [output, output]
    assert not list(output.glob(".*"))


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
        f"them anew, delete {output} or choose another folder."
    )
    with pytest.raises(DatasetError, match="holds folder with image_size=32, not image_size=64;"):
        converted(pets, image_size=64)


def test_classes_that_are_called_as_those_of_tiny_shapes(tmp_path):
    for wnid, *_ in tiny_shapes.CLASSES:
        for i in range(2):
            picture(
                tmp_path / "pets" / wnid / f"{i}.png", seed=int(wnid.removeprefix("shape")) * 2 + i
            )
    manifest = converted(tmp_path / "pets", val_share=0.5)
    assert (manifest["dataset"], manifest["synthetic"]) == ("folder", False)


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
    with pytest.raises(DatasetError, match="holds folder, not tiny-imagenet"):
        train(make_config("x", dataset="tiny-imagenet", data_dir=config.data_dir))
