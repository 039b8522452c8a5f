"""ImageNet's records are found, checked, ordered and read where they are."""

import io
import re
import shutil
import sys

import imagenet_records as drawn
import numpy as np
import pytest
import runs
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.imagenet import crops, records, speed
from utils.data.imagenet.index import index_records
from utils.data.manifest import load_manifest, manifest_sha256
from utils.data.pipeline import evaluation_batches, training_batches
from utils.data.plan import Source
from utils.data.prepare import prepare_dataset
from utils.data.read_records import read_samples
from utils.devices import Devices
from utils.tfrecord import Example, find_records, write_record
from utils.training.config import RunConfig
from utils.training.loop import callbacks
from utils.training.predictions import load_predictions
from utils.training.run import train

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn.write_shards(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "imagenet"
    index_records(folder, path, drawn.SIZE)
    return path


@pytest.fixture
def broken(tmp_path):
    return drawn.write_shards(tmp_path / "records", (2, 2), (2,))


def source(data_dir, **options):
    return Source(data_dir, load_manifest(data_dir), batch_size=4, augment=True, **options)


def rows_of(batches, epoch=0):
    steps = batches.plan.source.steps
    return np.concatenate([batches.plan[epoch * steps + i].rows for i in range(steps)])


def test_the_manifest_says_what_is_there(folder, data_dir):
    manifest = load_manifest(data_dir)
    assert manifest["counts"] == {"train": 18, "validation": 7, "holdout": 0}
    assert (manifest["classes"], manifest["image_size"]) == (drawn.SYNSETS, drawn.SIZE)
    assert manifest["shards"]["train-00002-of-00003"]["records"] == 7
    assert sorted(file.name for file in data_dir.iterdir()) == ["index.npz", "manifest.json"]
    moved = {**manifest, "records": "/elsewhere"}
    assert manifest_sha256(moved) == manifest_sha256(manifest)


def test_a_class_name_may_have_spaces(tmp_path):
    theirs = drawn.write_shards(tmp_path / "theirs", theirs=True)
    (theirs / "label.labels.txt").write_text("tiger shark\ngreat white shark\n\nhammerhead \n")
    manifest = index_records(theirs, tmp_path / "data", drawn.SIZE)
    assert manifest["classes"] == ["tiger shark", "great white shark", "hammerhead"]


def test_both_layouts_hold_the_same(folder, data_dir, tmp_path):
    theirs = drawn.write_shards(tmp_path / "theirs", theirs=True)
    index_records(theirs, tmp_path / "data", drawn.SIZE)
    a, b = (
        records.RecordFiles(d, load_manifest(d), "train") for d in (data_dir, tmp_path / "data")
    )
    assert [a.jpeg(row) for row in range(18)] == [b.jpeg(row) for row in range(18)]
    assert [a.jpeg(row)[1] for row in range(4)] == [0, 1, 2, 0]


def test_evaluation_takes_seven_eighths_of_the_center_in_order(data_dir):
    images, labels = (
        np.concatenate(x) for x in zip(*evaluation_batches(source(data_dir)), strict=False)
    )
    assert images.shape == (7, drawn.SIZE, drawn.SIZE, 3)
    assert list(labels) == [(18 + i) % 3 for i in range(7)]
    reader = records.RecordFiles(data_dir, load_manifest(data_dir), "validation")
    image = Image.open(io.BytesIO(reader.jpeg(3)[0]))
    side = round(7 / 8 * min(image.size))
    left, top = ((n - side) // 2 for n in image.size)
    part = image.crop((left, top, left + side, top + side))
    expected = part.resize((drawn.SIZE, drawn.SIZE), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(expected, float) - images[3]).mean() < 1
    flipped = evaluation_batches(source(data_dir), flipped=True)[0][0]
    np.testing.assert_array_equal(flipped, images[:4, :, ::-1])


def test_color_spaces_and_orientation():
    plain = crops.decode(drawn.photo(3))
    assert np.abs(crops.decode(drawn.photo(3, mode="CMYK")).astype(float) - plain).mean() < 8
    gray = crops.decode(drawn.photo(3, mode="L"))
    assert gray.shape == plain.shape
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a viewer
    np.testing.assert_array_equal(crops.decode(drawn.photo(3, exif=exif)), plain)


def test_random_crops_are_of_the_stated_areas_and_ratios():
    random = np.random.RandomState(0)
    boxes = np.array([crops.crop_box(200, 300, random.uniform(size=(10, 4))) for _ in range(500)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    area, ratio = height * width / 60_000, width / height
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.8
    assert 0.73 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.36
    nothing_fits = np.tile([0.999, 0.999, 0, 0], (10, 1))
    assert crops.crop_box(100, 10, nothing_fits) == (43, 0, 13, 10)


def test_lighting_shifts_colors_along_their_principal_axes():
    image = np.full((20, 20, 3), 100, np.uint8)
    uniform = np.tile([0.5, 0.5, 0.5, 0.5], 10)
    shifted = crops.augmented(image, np.append(uniform, [1.0, 0.0, 0.0]), 8)
    expected = 100 + 255 * 0.1 * 0.2175 * np.array([-0.5675, -0.5808, -0.5836])
    np.testing.assert_allclose(shifted[0, 0], expected, atol=0.51)
    assert (shifted == shifted[0, 0]).all()


def test_an_epoch_has_every_image_once_and_each_its_own_order(data_dir):
    batches = training_batches(source(data_dir), epochs=2)
    first, second = rows_of(batches), rows_of(batches, 1)
    assert len(batches) == 8
    assert len(set(first)) == len(set(second)) == 16
    assert list(first) != list(second)
    images, labels = batches[0]
    assert images.shape == (4, drawn.SIZE, drawn.SIZE, 3)
    assert list(labels) == [row % 3 for row in first[:4]]


def test_going_on_within_an_epoch_gives_the_same_batches(data_dir):
    whole = training_batches(source(data_dir), epochs=2)
    rest = training_batches(source(data_dir), epochs=2, start=6)
    assert len(rest) == 2
    for expected, found in zip((whole[6], whole[7]), rest, strict=True):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_each_host_reads_files_of_its_own(data_dir):
    reader = records.RecordFiles(data_dir, load_manifest(data_dir), "train")
    seen = []
    for process in range(2):
        devices = Devices(count=2, process=process, processes=2)
        batches = training_batches(source(data_dir), epochs=1, devices=devices)
        rows = rows_of(batches).reshape(-1, 2, 2)[:, process].ravel()
        seen.append(set(reader.shards[rows]))
        assert batches[0][0].shape == (2, drawn.SIZE, drawn.SIZE, 3)
    assert seen == [{0, 2}, {1}]
    too_many = Devices(count=4, processes=4)
    message = "as many files as there are hosts, 4, or more. Received: 3"
    with pytest.raises(ValueError, match=message):
        training_batches(source(data_dir), epochs=1, devices=too_many)[0]


def test_shuffling_is_within_a_window(data_dir, monkeypatch):
    monkeypatch.setattr(records, "WINDOW", 1)
    monkeypatch.setattr(records, "INTERLEAVED", 1)
    reader = records.RecordFiles(data_dir, load_manifest(data_dir), "train")
    rows = reader.order(np.arange(18), np.random.RandomState(0), 1, 18)
    assert (np.diff(reader.shards[rows]) != 0).sum() == 2  # one file after another
    monkeypatch.setattr(records, "INTERLEAVED", 3)
    rows = reader.order(np.arange(18), np.random.RandomState(0), 1, 18)
    assert len(set(reader.shards[rows[:3]])) == 3  # a record of each in turn


@pytest.mark.parametrize("options", [{"task": "localization"}, {"record_order": "classes"}])
def test_what_imagenet_cannot_do(data_dir, options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"ImageNet is for classification.*{name}='{value}'"):
        source(data_dir, **options)


def test_records_of_all_sizes_are_no_samples(data_dir):
    with pytest.raises(DatasetError, match="index of ImageNet's records, whose images have all s"):
        read_samples(data_dir, load_manifest(data_dir))


def test_without_opencv_an_index_says_what_is_missing(folder, tmp_path, monkeypatch):
    crops.opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DatasetError, match="^Dataset imagenet needs OpenCV: pip install opencv"):
        index_records(folder, tmp_path / "index", 64)


def cut_off(folder):
    for path in (folder / "train-00000-of-00002", folder / "validation-00000-of-00001"):
        path.write_bytes(path.read_bytes()[:-7])
    return r"used \(2\): .*train-00000-of-00002 is damaged or cut off at byte .*validation-00000"


def damaged_first_record(folder):
    path = folder / "train-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    return (
        r"cannot be used \(1\): .*train-00001-of-00002 is damaged or cut off at byte 12\. Copy or"
    )


def missing_file(folder):
    (folder / "train-00001-of-00002").unlink()
    (folder / "train-00000-of-00002").rename(folder / "train-00001-of-00002")
    return "of 2 files like train-00001-of-00002, 1 are missing: numbers 0"


def two_sets(folder):
    shutil.copy(folder / "train-00000-of-00002", folder / "train-00000-of-00001")
    return "3 files where the names like train-00001-of-00002 say 2. Keep those of one dataset"


def no_validation(folder):
    (folder / "validation-00000-of-00001").unlink()
    return "must have files named train-00000-of-01024 and validation-00000-of-00128"


def label_out_of_range(folder):
    (folder / "synsets.txt").write_text("n01\nn02")
    with (folder / "train-00000-of-00002").open("wb") as file:
        write_record(file, drawn.record(drawn.photo(0), 3))
    return r"train-00000-of-00002: a label must be from 1 to 2, as there are 2 classes. Received: 3"


def other_class_list(folder):
    (folder / "synsets.txt").write_text("n02\nn01\nn03")
    return "train-00000-of-00002: n01 has the label of n02 in the class list"


def repeated_class(folder):
    (folder / "synsets.txt").write_text("n01\nn01\nn03")
    return "synsets.txt must name two or more classes, each once"


def other_schema(folder):
    with (folder / "train-00000-of-00002").open("wb") as file:
        write_record(file, drawn.record(drawn.photo(0), 1, theirs=True))
    return (
        "train-00000-of-00002: its records have no image/encoded and no image/class/label. "
        "Found: image, label"
    )


def no_picture(folder):
    with (folder / "train-00000-of-00002").open("wb") as file:
        write_record(file, drawn.record(b"no JPEG", 1))
    return "train-00000-of-00002: an image cannot be decoded"


def no_bytes(folder):
    with (folder / "train-00000-of-00002").open("wb") as file:
        write_record(file, drawn.record(b"", 1))
    return "train-00000-of-00002: an image cannot be decoded"


def other_type(folder):
    example = Example()
    for name in ("image/encoded", "image/class/label"):
        example.features.feature[name].bytes_list.value.append(drawn.photo(0))
    with (folder / "train-00000-of-00002").open("wb") as file:
        write_record(file, example.SerializeToString())
    return "train-00000-of-00002: the image or the label of a record is empty or of another type"


def empty(folder):
    (folder / "train-00001-of-00002").write_bytes(b"")
    return r"cannot be used \(1\): train-00001-of-00002: it is empty\. Copy or make them again\."


def other_encoding(folder):
    (folder / "words.txt").write_bytes("n01\tcafé".encode("latin-1"))
    return r"words.txt is not UTF-8 text .*; restore the file\."


@pytest.mark.parametrize(
    "damage",
    [
        cut_off, damaged_first_record, missing_file, two_sets, no_validation,
        label_out_of_range, other_class_list, repeated_class, other_schema, other_type, no_picture,
        no_bytes,
        empty, other_encoding,
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_written(broken, tmp_path, damage):
    message = damage(broken)
    with pytest.raises(DatasetError, match=message):
        index_records(broken, tmp_path / "data", drawn.SIZE)
    assert not (tmp_path / "data").exists()


def test_what_the_system_says_of_files(broken, tmp_path):
    """A folder where a file should be, and one that cannot be made."""
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="Writing .* failed .*Not a directory.*; choose another"):
        prepare_dataset("imagenet", tmp_path / "file/data", archive=broken)
    (broken / "train-00001-of-00002").unlink()
    (broken / "train-00001-of-00002").mkdir()
    with pytest.raises(DatasetError, match="cannot be used .*Is a directory.*train-00001-of-00002"):
        prepare_dataset("imagenet", tmp_path / "data", archive=broken)
    assert not (tmp_path / "data").exists()


def test_buckets_are_to_be_mounted(tmp_path):
    with pytest.raises(DatasetError, match="gs://a/b is not a folder on this machine. Mount"):
        index_records("gs://a/b", tmp_path, 224)
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        index_records(tmp_path / "nowhere", tmp_path, 224)


def test_damage_that_comes_later_is_named(broken, tmp_path):
    index_records(broken, tmp_path / "data", drawn.SIZE)
    manifest = load_manifest(tmp_path / "data")
    path = broken / "train-00001-of-00002"
    start = int(find_records(path)[1, 0])
    content = bytearray(path.read_bytes())
    content[start + 20] ^= 1
    path.write_bytes(content)
    reader = records.RecordFiles(tmp_path / "data", manifest, "train")
    with pytest.raises(DatasetError, match=f"train-00001-of-00002, record at byte {start}: "):
        reader.read(np.array([0, 3]))
    path.write_bytes(content[:-1])
    with pytest.raises(DatasetError, match="missing or damaged: train-00001-of-00002"):
        load_manifest(tmp_path / "data")
    (tmp_path / "data" / "index.npz").write_bytes(b"")
    with pytest.raises(DatasetError, match="index.npz is missing or damaged"):
        records.RecordFiles(tmp_path / "data", manifest, "train")


def test_kept_images_are_small(data_dir):
    reader = records.RecordFiles(data_dir, load_manifest(data_dir), "validation")
    thumbnails = records.Thumbnails(reader, side=32)
    assert len(thumbnails) == 7
    image = Image.open(io.BytesIO(thumbnails[2]))
    assert (image.size, image.format) == ((32, 32), "JPEG")
    expected = cv2.resize(crops.decode(reader.jpeg(2)[0]), (32, 32))
    assert np.abs(np.asarray(image, float).mean((0, 1)) - expected.mean((0, 1))).max() < 12


def test_an_index_is_made_once_and_again_where_the_records_have_moved(broken, tmp_path, capsys):
    first = prepare_dataset("imagenet", tmp_path / "data", archive=broken, image_size=drawn.SIZE)
    made = (tmp_path / "data" / "index.npz").stat().st_mtime_ns
    assert prepare_dataset("imagenet", tmp_path / "data", archive=broken) == first
    assert prepare_dataset("imagenet", tmp_path / "data") == first
    assert (tmp_path / "data" / "index.npz").stat().st_mtime_ns == made
    moved = broken.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="missing or damaged: train-00000-of-00002"):
        prepare_dataset("imagenet", tmp_path / "data")
    again = prepare_dataset("imagenet", tmp_path / "data", archive=moved)
    assert manifest_sha256(again) == manifest_sha256(first)
    assert again["records"] == str(moved)
    other = drawn.write_shards(tmp_path / "other", (2, 3), (2,))
    with pytest.raises(DatasetError, match="holds the index of other records than those in"):
        prepare_dataset("imagenet", tmp_path / "data", archive=other, image_size=drawn.SIZE)
    assert load_manifest(tmp_path / "data") == again
    with pytest.raises(DatasetError, match="holds imagenet with image_size=64, not image_size=96"):
        prepare_dataset("imagenet", tmp_path / "data", archive=moved, image_size=96)
    with pytest.raises(DatasetError, match="holds no index yet; give the archive"):
        prepare_dataset("imagenet", tmp_path / "new")


def test_the_config_of_a_run():
    config = RunConfig(dataset="imagenet", archive="records", recipe="paper", preset="fishnet150")
    assert config.data_options == {"image_size": 224}
    resolved = config.resolve()
    assert resolved.data_dir == "data/imagenet"
    assert resolved.run_dir == "runs/imagenet-fishnet150-paper-100ep-seed0"
    assert (resolved.epochs, resolved.batch_size) == (100, 256)
    assert resolved.command == config.command
    said = RunConfig(dataset="imagenet", archive="records", image_size=224)
    assert said.resolve().data_dir == "data/imagenet"
    smaller = RunConfig(dataset="imagenet", archive="records", image_size=160)
    assert smaller.resolve().data_dir == "data/imagenet-160"
    assert smaller.run_id == "imagenet-simple-tuned-v2-8ep-image-size-160-seed0"
    for changes, message in (
        ({"archive": None}, "archive must be the folder of ImageNet's TFRecords"),
        ({"val_share": 0.2}, "val_share must be None for any dataset but folder"),
        ({"image_size": 100}, "image_size must be .* nearest: 96 and 128. Received"),
        ({"task": "localization"}, "task must be classification for dataset imagenet"),
    ):
        with pytest.raises(ValueError, match=message):
            RunConfig(**{"dataset": "imagenet", "archive": "records", **changes})


@pytest.mark.tracing
def test_a_training_goes_on_bit_equal_within_an_epoch(
    make_config, killed, data_dir, monkeypatch, tmp_path
):
    options = {"dataset": "imagenet", "data_dir": str(data_dir), "recipe": "paper"}
    options |= {"batch_size": 4, "epochs": 2, "image_size": drawn.SIZE}
    whole = train(make_config("whole", **options))
    assert whole["dataset"]["name"] == "imagenet"
    cut = make_config("cut", **options)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
        killed(cut, 1, step=2)
    assert runs.learned(train(cut)) == runs.learned(whole)
    kept = load_predictions(tmp_path / "whole" / "whole.npz")
    assert list(kept["labels"]) == [(18 + i) % 3 for i in range(7)]


def test_the_speed_of_reading_is_measured(folder, capsys, monkeypatch):
    arguments = [str(folder), "--image-size", "32", "--seconds", "0.01"]
    monkeypatch.setattr("sys.argv", ["speed", *arguments])
    speed.main()
    assert int(re.fullmatch(r"(\d+) images/s on \d+ cores\n", capsys.readouterr().out)[1]) > 0


def test_each_image_of_a_batch_has_its_own_crop_and_flip(data_dir):
    manifest = load_manifest(data_dir)
    batches = training_batches(Source(data_dir, manifest, batch_size=8, augment=True), epochs=1)
    reader = records.RecordFiles(data_dir, manifest, "train")
    images, step = batches[0][0], batches.plan[0]
    assert 0 < step.flipped.sum() < 8
    planned = zip(images, step.rows, step.crops.T, step.flipped, strict=True)
    for image, row, numbers, flipped in planned:
        own = crops.augmented(crops.decode(reader.jpeg(row)[0]), numbers, drawn.SIZE)
        np.testing.assert_array_equal(image, own[:, ::-1] if flipped else own)


@pytest.mark.parametrize(
    ("normal", "shift"),
    [
        ([0, 10, 0], 4.794 * np.array([0.7192, -0.0045, -0.6948])),
        ([0, 0, 40], 4.59 * np.array([0.4009, -0.8140, 0.4203])),
    ],
)
def test_lighting_on_the_other_axes(normal, shift):
    image = np.full((20, 20, 3), 100, np.uint8)
    shifted = crops.augmented(image, np.append(np.full(40, 0.5), normal), 8)
    np.testing.assert_allclose(shifted[0, 0], 100 + shift, atol=0.51)


def test_crops_by_hand():
    # 54 % of the area, a square; as far from the corner as it can be, and in it.
    assert crops.crop_box(100, 100, np.array([[0.5, 0.5, 0.999, 0.999]])) == (27, 27, 73, 73)
    assert crops.crop_box(100, 100, np.array([[0.5, 0.5, 0, 0]]))[2:] == (73, 73)
    nothing_fits = np.tile([0.999, 0.999, 0, 0], (10, 1))
    assert crops.crop_box(10, 100, nothing_fits) == (0, 43, 10, 13)
