import numpy as np
import pytest
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.datasets import tiny_shapes
from utils.data.datasets.tiny_shapes import CLASSES, draw_image, draw_tiny_shapes
from utils.data.manifest import manifest_sha256
from utils.data.prepare import prepare_dataset
from utils.training.results import read_result


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return draw_tiny_shapes(root, train_per_class=3, validation_per_class=2)


def test_has_the_layout_of_tiny_imagenet(drawn):
    wnids = (drawn / "wnids.txt").read_text().split()
    assert len(set(wnids)) == 24
    assert wnids != sorted(wnids)
    words = dict(line.split("\t") for line in (drawn / "words.txt").read_text().splitlines())
    assert len(set(words.values())) == 24
    assert set(words) == set(wnids)
    assert len(list(drawn.glob("train/*/images/*.JPEG"))) == 72
    assert len(list(drawn.glob("val/images/*.JPEG"))) == 48
    assert len((drawn / "val" / "val_annotations.txt").read_text().splitlines()) == 48


def test_masks_hold_the_class_and_agree_with_the_boxes(drawn):
    for index, (wnid, *_) in enumerate(CLASSES):
        for line in (drawn / "train" / wnid / f"{wnid}_boxes.txt").read_text().splitlines():
            name, *box = line.split("\t")
            mask = Image.open(drawn / "train" / wnid / "masks" / name.replace("JPEG", "png"))
            assert mask.size == (64, 64)
            assert set(np.unique(mask)) == {0, index + 1}
            assert list(mask.getbbox()) == [int(edge) for edge in box]
            assert Image.open(drawn / "train" / wnid / "images" / name).mode == "RGB"


def test_same_seed_same_bytes_whatever_the_number(drawn, tmp_path):
    more = draw_tiny_shapes(tmp_path / "more", train_per_class=4, validation_per_class=3)
    few = {name: data for name, data in files(drawn).items() if not name.endswith(".txt")}
    assert few.items() <= files(more).items()
    same = draw_tiny_shapes(tmp_path / "same", train_per_class=3, validation_per_class=2)
    assert files(same) == files(drawn)
    other = draw_tiny_shapes(tmp_path / "x", train_per_class=3, validation_per_class=2, seed=1)
    name = f"train/{CLASSES[0][0]}/images/{CLASSES[0][0]}_0.JPEG"
    assert files(other)[name] != files(drawn)[name]


def test_a_linear_classifier_stays_near_chance():
    def pixels(split, number):
        images = [
            np.asarray(draw_image(*kind, np.random.RandomState([0, split, c, i]))[0].reduce(4))
            for c, (_, *kind) in enumerate(CLASSES)
            for i in range(number)
        ]
        return np.array(images, np.float64).reshape(len(images), -1) / 255, np.repeat(
            np.arange(len(CLASSES)), number
        )

    (x, y), (x_val, y_val) = pixels(0, 100), pixels(1, 25)
    mean = x.mean(0)
    targets = np.eye(len(CLASSES))[y] - 1 / len(CLASSES)
    for ridge in (30, 300, 3000):
        gram = (x - mean).T @ (x - mean) + ridge * np.eye(x.shape[1])
        scores = (x_val - mean) @ np.linalg.solve(gram, (x - mean).T @ targets)
        assert np.mean(scores.argmax(1) == y_val) < 0.15


def test_prepare_dataset_draws_and_converts_once(tmp_path, monkeypatch):
    options = {"train_per_class": 2, "validation_per_class": 1, "train_shards": 2}
    manifest = prepare_dataset("tiny-shapes", tmp_path / "records", **options)
    assert manifest["synthetic"] is True
    assert manifest["dataset"] == "tiny-shapes"
    assert manifest["counts"] == {"train": 48, "validation": 24, "holdout": 24}
    assert manifest["classes"] == [wnid for wnid, *_ in CLASSES]
    monkeypatch.setattr(tiny_shapes, "draw_tiny_shapes", None)
    assert prepare_dataset("tiny-shapes", tmp_path / "records", **options) == manifest
    for option, there in (("train_per_class", 2), ("seed", 0)):
        with pytest.raises(
            DatasetError, match=f"records holds tiny-shapes with {option}={there}, not {option}=5;"
        ):
            prepare_dataset("tiny-shapes", tmp_path / "records", **{option: 5})
    with pytest.raises(ValueError, match="options of tiny-shapes are: train_.*seed. Received: sed"):
        prepare_dataset("tiny-shapes", tmp_path / "records", sed=5)
    with pytest.raises(
        ValueError, match="holds tiny-shapes, not tiny-imagenet; choose another folder"
    ):
        prepare_dataset("tiny-imagenet", tmp_path / "records")
    with pytest.raises(ValueError, match="tiny-imagenet, tiny-shapes"):
        prepare_dataset("cifar", tmp_path / "records")


def test_nothing_is_drawn_for_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(tiny_shapes, "draw_tiny_shapes", None)
    with pytest.raises(DatasetError, match="Writing .*file/records failed .*another folder"):
        prepare_dataset("tiny-shapes", tmp_path / "file" / "records")


@pytest.mark.slow
def test_the_default_drawing_is_that_of_the_results(tmp_path):
    manifest = prepare_dataset("tiny-shapes", tmp_path / "records")
    named = read_result("report/results/segmentation-simple-seed0.json")["dataset"]
    assert manifest_sha256(manifest) == named["manifest_sha256"]
