from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from layouts import convert

from utils.data import pipeline, plan
from utils.data.archives import DatasetError
from utils.data.augmentation import crop_and_resize, mix_images, mix_labels
from utils.data.manifest import evaluation_size, load_manifest, training_size
from utils.data.pipeline import evaluation_batches, feed, training_batches
from utils.data.plan import Source
from utils.data.prepare import prepare_dataset
from utils.data.read_records import open_arrays
from utils.devices import Devices


@pytest.fixture(scope="module")
def source(shapes):
    return Source(shapes, load_manifest(shapes), batch_size=32)


def images_of(batches):
    return [image.tobytes() for images, *_ in batches for image in images]


def labels_of(batches):
    return np.concatenate([batch[1] for batch in batches])


def equal(batches, expected):
    for ours, theirs in zip(batches, expected, strict=True):
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our, their)


def test_alternating_flips_show_both_sides_of_an_image_in_two_epochs(source):
    source = replace(source, augment=True, flip="alternating", batch_size=96, seed=1)
    plan = training_batches(source, epochs=4).plan
    epochs = [{}, {}, {}, {}]
    for index, (rows, _, flipped, _) in enumerate(plan):
        epochs[index // source.steps].update(zip(rows.tolist(), flipped.tolist(), strict=True))
    first, second, *later = epochs
    assert sorted(first) == list(range(24 * 12))
    assert all(second[row] != first[row] for row in first)
    assert later == [first, second]
    assert 0.4 < np.mean(list(first.values())) < 0.6
    offsets = training_batches(replace(source, flip="random"), epochs=4).plan[5].crops
    np.testing.assert_array_equal(plan[5].crops, offsets)
    other = training_batches(replace(source, seed=2), epochs=1).plan[0]
    assert (
        dict(zip(other.rows.tolist(), other.flipped.tolist(), strict=True)).items() - first.items()
    )
    on = training_batches(source, epochs=4, start=source.steps + 1).plan[0]
    np.testing.assert_array_equal(on.flipped, plan[source.steps + 1].flipped)


def test_a_source_maps_its_images_once(source):
    # Keras keeps what `fit` was given, and a run calls it again after an interruption within an
    # epoch and for every size of the images.
    first = training_batches(source, epochs=1)
    second = training_batches(source, epochs=2, start=source.steps)
    assert second.arrays is first.arrays
    assert evaluation_batches(source, on_train=True).arrays is first.arrays
    assert evaluation_batches(source).arrays is not first.arrays


def test_an_epoch_is_a_permutation_of_all_images(source):
    batches = list(training_batches(replace(source, batch_size=96), epochs=2))
    assert [(x.shape, x.dtype, y.dtype) for x, y in batches] == 6 * [
        ((96, 64, 64, 3), np.uint8, np.int32)
    ]
    everything = images_of([open_arrays(source.data_dir, source.manifest, "train")])
    first, second = images_of(batches[:3]), images_of(batches[3:])
    assert sorted(first) == sorted(second) == sorted(everything)
    assert first != second
    assert len({label for label in labels_of(batches[:1])}) > 16  # of 24


def test_the_order_depends_on_seed_and_epoch_alone(source):
    source = replace(source, augment=True, seed=5)
    three = list(training_batches(source, epochs=3))
    np.random.seed(1)
    keras.utils.set_random_seed(2)
    rest = training_batches(source, epochs=3, start=9 + 7)  # in any order
    assert len(rest) == 2 + 9
    equal([rest[i] for i in (10, 0, 5)], [three[i] for i in (26, 16, 21)])
    other = training_batches(replace(source, seed=6), epochs=1)
    assert not np.array_equal(other[0][0], three[0][0])
    plain = replace(source, augment=False)
    np.testing.assert_array_equal(training_batches(plain, epochs=3)[20][1], three[20][1])
    with pytest.raises(IndexError):
        rest[11]


def test_the_numbers_do_not_change_between_versions(source):
    """A run of another version of NumPy or of this project would go on otherwise."""
    plan = training_batches(replace(source, augment=True, seed=7), epochs=2).plan
    rows, offsets, flipped, _ = plan[10]
    assert rows[:8].tolist() == [167, 261, 189, 257, 0, 72, 119, 216]
    assert offsets[:, :4].tolist() == [[7, -7, 4, -5], [7, -5, -4, -2]]
    assert flipped[:8].tolist() == [1, 1, 1, 0, 0, 0, 1, 1]


def test_resized_crops(source):
    source = replace(source, augment=True, crop_area=0.3, seed=7)
    batches = training_batches(source, epochs=2)
    _, crops, flipped, _ = batches.plan[10]
    assert crops[:, :3].tolist() == [[14, 9, 12], [8, 1, 0], [50, 50, 36], [48, 61, 44]]
    assert (crops[2] * crops[3]).min() >= 0.28 * 64**2
    images, labels = batches[10]
    whole, expected = training_batches(replace(source, augment=False), epochs=2)[10]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(images, crop_and_resize(whole, crops, flipped))
    alternating = training_batches(replace(source, flip="alternating"), epochs=2).plan[10]
    np.testing.assert_array_equal(alternating.crops, crops)


def test_mixed_images(source):
    source = replace(source, augment=True, seed=7)
    whole = training_batches(source, epochs=1)
    mixed = training_batches(replace(source, cutmix=0.5), epochs=1)
    cuts = mixed.plan[5].cuts
    assert cuts[:, :4].tolist() == [
        [30, 20, 31, 26],
        [3, 50, 45, 25],
        [30, 30, 31, 26],
        [3, 61, 45, 25],
    ]
    images, labels = whole[5]
    found, targets = mixed[5]
    np.testing.assert_array_equal(found, mix_images(images, cuts))
    np.testing.assert_array_equal(targets, mix_labels(labels, cuts, 64))


def test_class_order(source, monkeypatch):
    part = replace(source, batch_size=16, fraction=0.5, record_order="classes")
    labels = labels_of(training_batches(part, epochs=2)).reshape(2, 144)
    fair = labels_of(training_batches(replace(part, record_order="shuffled"), epochs=1))
    np.testing.assert_array_equal(np.bincount(labels[0]), np.bincount(fair))
    monkeypatch.setattr(plan, "CLASS_WINDOW", 10)
    narrow = labels_of(training_batches(part, epochs=2)).reshape(2, 144)
    in_order = np.sort(fair)
    assert not np.array_equal(narrow[0], in_order)
    assert not np.array_equal(narrow[0], narrow[1])
    for drawn in narrow:  # no image is further from its place than the window is wide
        assert all(
            in_order[max(i - 10, 0)] <= label <= in_order[min(i + 10, 143)]
            for i, label in enumerate(drawn)
        )


def test_evaluation_by_class_is_asked_for(source):
    by_class = labels_of(evaluation_batches(source, by_class=True))
    assert (np.diff(by_class) >= 0).all()
    # Whatever the order of training: the JPEGs that are kept beside the predictions are in this.
    part = replace(source, record_order="classes")
    shuffled = labels_of(evaluation_batches(part))
    np.testing.assert_array_equal(shuffled, labels_of(evaluation_batches(source)))
    assert (np.diff(shuffled) < 0).any()


def test_evaluation_is_the_whole_split_in_record_order(source):
    batches = list(evaluation_batches(replace(source, batch_size=40)))
    assert [len(labels) for _, labels in batches] == [40, 40, 16]
    arrays = open_arrays(source.data_dir, source.manifest, "validation")
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), arrays.images)
    np.testing.assert_array_equal(np.bincount(labels_of(batches)), [4] * 24)
    flipped = evaluation_batches(replace(source, batch_size=40), flipped=True)
    np.testing.assert_array_equal(flipped[1][0], batches[1][0][:, :, ::-1])


def test_the_holdout_is_taken_out_of_training(source):
    held_out = replace(source, batch_size=24, split="holdout")
    held = evaluation_batches(held_out)
    np.testing.assert_array_equal(np.bincount(labels_of(held)), [6] * 24)
    seen, kept = set(images_of(training_batches(held_out, epochs=1))), set(images_of(held))
    assert len(seen) == len(kept) == 24 * 6
    assert not seen & kept
    fixed = images_of(evaluation_batches(held_out, on_train=True))
    assert set(fixed) == seen


def test_training_images_as_they_are(source, monkeypatch):
    monkeypatch.setattr(pipeline, "TRAIN_IMAGES", 50)
    source = replace(source, fraction=1 / 3, augment=True)
    fixed = images_of(evaluation_batches(source, on_train=True))
    trained = set(images_of(training_batches(replace(source, augment=False), epochs=1)))
    assert len(trained) == 96
    assert len(fixed) == 50
    assert set(fixed) < trained
    assert images_of(evaluation_batches(replace(source, seed=3), on_train=True)) == fixed


def test_several_devices_and_processes(source):
    source = replace(source, batch_size=40)
    alone = list(evaluation_batches(source))
    whole = list(evaluation_batches(source, devices=Devices(2)))
    assert [len(images) for images, *_ in whole] == [40, 40, 40]
    np.testing.assert_array_equal(np.concatenate([w for *_, w in whole]), [1] * 96 + [0] * 24)
    np.testing.assert_array_equal(labels_of(whole)[:96], labels_of(alone))
    assert not whole[2][0][16:].any()
    source = replace(source, augment=True, cutmix=0.5)
    together = training_batches(source, epochs=1)
    parts = [training_batches(source, epochs=1, devices=Devices(2, i, 2)) for i in (0, 1)]
    joined = [np.concatenate(part) for part in zip(*(part[3] for part in parts), strict=True)]
    equal([joined], [together[3]])


def test_boxes_and_masks(source):
    arrays = open_arrays(source.data_dir, source.manifest, "validation")
    boxes = np.concatenate([y for _, y in evaluation_batches(replace(source, task="localization"))])
    np.testing.assert_array_equal(boxes[:, 0], arrays.labels)
    np.testing.assert_array_equal(boxes[:, 1:], arrays.boxes)
    masks = np.concatenate([y for _, y in evaluation_batches(replace(source, task="segmentation"))])
    np.testing.assert_array_equal(masks, arrays.masks)
    assert set(np.unique(masks[5])) == {0, arrays.labels[5] + 1}


def test_augmentation_takes_boxes_and_masks_along(source):
    """After it, what the mask shows still reaches all four edges of the box, if none is cut off."""
    source = replace(source, batch_size=96, augment=True, seed=3)
    images, targets = training_batches(replace(source, task="localization"), epochs=1)[0]
    same, masks = training_batches(replace(source, task="segmentation"), epochs=1)[0]
    np.testing.assert_array_equal(images, same)
    whole = 0
    for target, mask in zip(targets, masks, strict=True):
        xmin, ymin, xmax, ymax = np.rint(64 * target[1:]).astype(int)
        if min(xmin, ymin) == 0 or max(xmax, ymax) == 64:
            continue
        whole += 1
        rows, columns = np.nonzero(mask[ymin:ymax, xmin:xmax])
        assert (columns.min(), rows.min()) == (0, 0)
        assert (columns.max() + 1, rows.max() + 1) == (xmax - xmin, ymax - ymin)
    assert whole > 20


def test_what_keras_is_given_on_tensorflow(source):
    batches = evaluation_batches(replace(source, batch_size=40))
    dataset = feed(batches)
    assert dataset.element_spec[0] == tf.TensorSpec((None, 64, 64, 3), tf.uint8)
    assert len(dataset) == 3
    equal(dataset.as_numpy_iterator(), batches)
    assert dataset.options().autotune.enabled is False  # else each iterator waits for the tuner
    training = feed(training_batches(source, epochs=2))
    assert training.element_spec[1] == tf.TensorSpec((32,), tf.int32)


def test_images_without_what_the_task_needs_are_refused_before_training(layout, tmp_path):
    boxes = layout / "train" / "n01" / "n01_boxes.txt"
    two, *others = boxes.read_text().splitlines(keepends=True)
    boxes.write_text("".join([two, two, *others[1:]]))  # one image with two boxes, one without
    data_dir = tmp_path / "records"
    source = Source(data_dir, convert(layout, data_dir), batch_size=4, task="localization")
    text = f"{data_dir}: 2 train images have no box, or several; task localization needs one of"
    with pytest.raises(DatasetError, match=text):
        training_batches(source, epochs=1)
    assert len(evaluation_batches(source)) == 3
    with pytest.raises(DatasetError, match="12 validation images have no mask, or several; task s"):
        evaluation_batches(replace(source, task="segmentation"))


def test_a_holdout_without_images_is_refused(source):
    none = {**source.manifest, "counts": {**source.manifest["counts"], "holdout": 0}}
    with pytest.raises(ValueError, match="no class has the two training images that"):
        evaluation_size(none, "holdout")


def test_bad_options(source):
    with pytest.raises(ValueError, match="at most the number of training images, 288.*999"):
        training_batches(replace(source, batch_size=999), epochs=1)
    for size in (training_size, evaluation_size):
        with pytest.raises(ValueError, match="split must be one of val, holdout.*'test'"):
            size(source.manifest, "test")
    for name, value, valid in (
        ("split", "train", "val, holdout"),
        ("record_order", "shufled", "shuffled, classes"),
        ("task", "boxes", "classification, localization, segmentation"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be one of {valid}. Received: {value!r}"):
            replace(source, **{name: value})


def test_one_shard_gives_the_same_images(source, tmp_path):
    few = {"train_per_class": 12, "validation_per_class": 4}
    one = {"train_shards": 1, "validation_shards": 1}
    alone = prepare_dataset("tiny-shapes", tmp_path / "one", **few, **one)
    held = [
        images_of(evaluation_batches(replace(part, split="holdout")))
        for part in (source, Source(tmp_path / "one", alone))
    ]
    assert held[0] != held[1]
    assert sorted(held[0]) == sorted(held[1])


def test_images_of_a_fraction_without_the_holdout(shapes):
    manifest = load_manifest(shapes)  # 288 images, 144 of them held out
    assert training_size(manifest, "holdout", 0.5) == 72
    assert training_size(manifest, "holdout", 1 / 3) == 48
