import zlib
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from utils.data import pipeline
from utils.data.archives import DatasetError
from utils.data.manifest import evaluation_size, load_manifest, training_size
from utils.data.prepare import convert, prepare_dataset


@pytest.fixture(scope="module")
def manifest(shapes):
    return load_manifest(shapes)


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches])


def test_shapes_dtypes_and_epochs(shapes, manifest):
    batches = pipeline.training_batches(shapes, manifest, batch_size=32, epochs=3, augment=True)
    assert batches.element_spec[0] == tf.TensorSpec((32, 64, 64, 3), tf.uint8)
    assert batches.element_spec[1] == tf.TensorSpec((32,), tf.int32)
    assert len(list(batches)) == 3 * (24 * 12 // 32)


def test_evaluation_is_the_whole_split_in_record_order(shapes, manifest):
    batches = list(pipeline.evaluation_batches(shapes, manifest, batch_size=40))
    assert [len(labels) for _, labels in batches] == [40, 40, 16]
    np.testing.assert_array_equal(np.bincount(labels_of(batches)), [4] * 24)
    encoded = pipeline.encoded_images(shapes, manifest)
    first = tf.io.decode_jpeg(encoded[0], channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(batches[0][0][0], first)


def test_evaluation_on_train_reads_what_is_trained_on_as_it_is(shapes, manifest, monkeypatch):
    monkeypatch.setattr(pipeline, "TRAIN_IMAGES", 50)
    options = {"split": "holdout", "batch_size": 40}
    batches = list(pipeline.evaluation_batches(shapes, manifest, on_train=True, **options))
    assert [len(labels) for _, labels in batches] == [40, 10]
    few = pipeline.evaluation_batches(shapes, manifest, on_train=True, fraction=0.1, **options)
    assert len(labels_of(few)) == training_size(manifest, "holdout", 0.1)
    images = np.concatenate([images for images, _ in batches])
    held = {
        x.tobytes()
        for x, _ in pipeline.evaluation_batches(shapes, manifest, **options)
        .unbatch()
        .as_numpy_iterator()
    }
    assert not held & {x.tobytes() for x in images}


def test_order_depends_on_seed_and_epoch_alone(shapes, manifest):
    def epochs(**options):
        batches = pipeline.training_batches(
            shapes, manifest, batch_size=32, augment=True, **options
        )
        return [images.numpy() for images, _ in batches]

    tf.random.set_seed(1)
    two = epochs(epochs=2, seed=5)
    tf.random.set_seed(2)
    np.testing.assert_array_equal(epochs(epochs=2, seed=5), two)
    np.testing.assert_array_equal(epochs(epochs=2, first_epoch=1, seed=5), two[9:])
    assert not np.array_equal(two[:9], two[9:])
    assert not np.array_equal(epochs(epochs=1, seed=6), two[:9])


def test_the_rest_of_an_epoch(shapes, manifest):
    options = {"batch_size": 32, "epochs": 3, "seed": 5, "augment": True}
    all_three = [images for images, _ in pipeline.training_batches(shapes, manifest, **options)]
    rest = pipeline.training_batches(shapes, manifest, first_epoch=1, first_step=7, **options)
    assert len(rest) == 2 + 9
    for images, expected in zip((images for images, _ in rest), all_three[16:], strict=True):
        np.testing.assert_array_equal(images, expected)


def test_whole_batches_for_several_devices(shapes, manifest):
    part = pipeline.evaluation_batches(shapes, manifest, batch_size=40)
    whole = list(pipeline.evaluation_batches(shapes, manifest, batch_size=40, whole_batches=True))
    assert [images.shape[0] for images, _, _ in whole] == [40, 40, 40]
    weights = np.concatenate([weights for _, _, weights in whole])
    np.testing.assert_array_equal(weights, [1] * 96 + [0] * 24)
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels, _ in whole])[:96], labels_of(part)
    )
    assert not whole[2][0][16:].numpy().any()


def test_a_fraction_is_the_same_images_in_every_epoch(shapes, manifest):
    batches = pipeline.training_batches(shapes, manifest, batch_size=24, epochs=2, fraction=1 / 3)
    images = [image.numpy().tobytes() for images, _ in batches for image in images]
    assert len(images) == 2 * 96
    assert set(images[:96]) == set(images[96:])
    assert len(set(images)) == 96


def test_class_order_and_a_narrow_shuffle_window(shapes, manifest):
    options = {"batch_size": 16, "epochs": 2, "fraction": 0.5, "record_order": "classes"}
    in_order = labels_of(
        pipeline.training_batches(shapes, manifest, shuffle_window=1, **options)
    ).reshape(2, 144)
    assert (np.diff(in_order[0]) >= 0).all()
    np.testing.assert_array_equal(in_order[0], in_order[1])
    fair = pipeline.training_batches(shapes, manifest, batch_size=16, epochs=1, fraction=0.5)
    np.testing.assert_array_equal(np.bincount(in_order[0]), np.bincount(labels_of(fair)))
    window = 10
    drawn = labels_of(
        pipeline.training_batches(shapes, manifest, shuffle_window=window, **options)
    ).reshape(2, 144)
    assert not np.array_equal(drawn[0], in_order[0])
    # What is drawn at position i is among the first i + window records.
    for labels in drawn:
        assert all(label <= in_order[0][min(i + window, 144) - 1] for i, label in enumerate(labels))


def test_holdout_is_taken_out_of_training(shapes, manifest):
    held = pipeline.evaluation_batches(shapes, manifest, batch_size=24, split="holdout")
    np.testing.assert_array_equal(np.bincount(labels_of(held)), [6] * 24)
    assert training_size(manifest, "holdout") == 24 * 6
    rest = pipeline.training_batches(shapes, manifest, batch_size=24, epochs=1, split="holdout")
    seen = {image.numpy().tobytes() for images, _ in rest for image in images}
    held_out = {image.numpy().tobytes() for images, _ in held for image in images}
    assert len(seen) == len(held_out) == 24 * 6
    assert not seen & held_out


def examples(folder, prefix):
    """What the records say, read with nothing of the pipeline."""
    found = {}
    for shard in sorted(Path(folder).glob(f"{prefix}-*")):
        for record in tf.data.TFRecordDataset(str(shard)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            box = [
                features[f"image/object/bbox/{edge}"].float_list.value[0]
                for edge in ("xmin", "ymin", "xmax", "ymax")
            ]
            mask = features["image/segmentation/class/encoded"].bytes_list.value[0]
            jpeg = features["image/encoded"].bytes_list.value[0]
            image = tf.io.decode_jpeg(jpeg, 3, dct_method="INTEGER_ACCURATE").numpy()
            label = features["image/class/label"].int64_list.value[0] - 1
            found[zlib.crc32(image.tobytes())] = label, box, tf.io.decode_png(mask).numpy()[..., 0]
    return found


def test_boxes_and_masks_are_those_of_the_records(shapes, manifest):
    known = examples(shapes, "validation")
    options = {"data_dir": shapes, "manifest": manifest, "batch_size": 40}
    boxes = pipeline.evaluation_batches(**options, task="localization")
    masks = pipeline.evaluation_batches(**options, task="segmentation", whole_batches=True)
    seen = 0
    for (images, targets), (_, regions, weights) in zip(boxes, masks, strict=True):
        for i, image in enumerate(images.numpy()):
            label, box, mask = known[zlib.crc32(image.tobytes())]
            np.testing.assert_array_equal(targets[i], np.float32([label, *box]))
            np.testing.assert_array_equal(regions[i], mask)
            assert set(np.unique(mask)) == {0, label + 1}
            seen += int(weights[i])
    assert seen == len(known) == 96


def test_augmentation_takes_boxes_and_masks_along(shapes, manifest):
    """After it, what the mask shows still reaches all four edges of the box, if none is cut off."""
    options = {"data_dir": shapes, "manifest": manifest, "batch_size": 96, "epochs": 1}
    options |= {"seed": 3, "augment": True}
    (images, targets), *_ = pipeline.training_batches(**options, task="localization")
    (same, masks), *_ = pipeline.training_batches(**options, task="segmentation")
    np.testing.assert_array_equal(images, same)
    whole = 0
    for target, mask in zip(targets.numpy(), masks.numpy(), strict=True):
        xmin, ymin, xmax, ymax = np.rint(64 * target[1:]).astype(int)
        if min(xmin, ymin) == 0 or max(xmax, ymax) == 64:
            continue
        whole += 1
        rows, columns = np.nonzero(mask[ymin:ymax, xmin:xmax])
        assert (columns.min(), rows.min()) == (0, 0)
        assert (columns.max() + 1, rows.max() + 1) == (xmax - xmin, ymax - ymin)
    assert whole > 20


def test_label_outside_the_classes_is_refused(shapes, manifest):
    fewer = {**manifest, "classes": manifest["classes"][:23]}
    batches = pipeline.evaluation_batches(shapes, fewer, batch_size=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside the 23 classes"):
        list(batches)


def test_images_without_what_the_task_needs_are_refused_before_training(layout, tmp_path):
    boxes = layout / "train" / "n01" / "n01_boxes.txt"
    two, *others = boxes.read_text().splitlines(keepends=True)
    boxes.write_text("".join([two, two, *others[1:]]))  # one image with two boxes, one without
    data_dir = tmp_path / "records"
    options = {"data_dir": data_dir, "manifest": convert(layout, data_dir), "batch_size": 4}
    text = f"{data_dir}: 2 train images have no box, or several; task localization needs one of"
    with pytest.raises(DatasetError, match=text):
        pipeline.training_batches(**options, epochs=1, task="localization")
    assert pipeline.evaluation_batches(**options, task="localization")
    with pytest.raises(DatasetError, match="12 validation images have no mask, or several; task s"):
        pipeline.evaluation_batches(**options, task="segmentation")


class Checked(keras.layers.Layer):
    """Fails with the same class of error as a bad record does."""

    def call(self, x):
        tf.debugging.assert_less(x, 3.0, "trouble of the network")
        return x


@pytest.mark.parametrize("eager", [False, True])
def test_only_errors_of_records_are_reported_as_such(shapes, manifest, eager):
    def fit(manifest, *layers):
        layers = [keras.Input((64, 64, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(24)]
        model = keras.Sequential(layers)
        model.compile(loss="sparse_categorical_crossentropy", run_eagerly=eager, jit_compile=False)
        with pipeline.reading_records(shapes):
            model.fit(
                pipeline.training_batches(shapes, manifest, batch_size=32, epochs=1),
                verbose=0,
                shuffle=False,
            )

    fewer = {**manifest, "classes": manifest["classes"][:23]}
    with pytest.raises(DatasetError, match="cannot be used: .*outside the 23 classes.* Delete"):
        fit(fewer)
    with pytest.raises(tf.errors.InvalidArgumentError, match="trouble of the network"):
        fit(manifest, Checked())
    gone = {**manifest, "shards": {**manifest["shards"], "train-99999": {}}}
    with pytest.raises(DatasetError, match="cannot be used: .*train-99999; No such file"):
        fit(gone)


def test_a_holdout_without_images_is_refused(shapes, manifest):
    none = {**manifest, "counts": {**manifest["counts"], "holdout": 0}}
    with pytest.raises(ValueError, match="no class has the two train images that a hold-out need"):
        pipeline.evaluation_batches(shapes, none, batch_size=8, split="holdout")


def test_bad_options(shapes, manifest):
    with pytest.raises(ValueError, match="at most the number of training images, 288.*999"):
        pipeline.training_batches(shapes, manifest, batch_size=999, epochs=1)
    with pytest.raises(ValueError, match="split must be one of val, holdout.*'test'"):
        training_size(manifest, "test")
    with pytest.raises(ValueError, match="split must be one of val, holdout.*'test'"):
        evaluation_size(manifest, "test")
    options = {"batch_size": 8, "record_order": "shufled"}
    for batches in (pipeline.evaluation_batches, partial(pipeline.training_batches, epochs=1)):
        with pytest.raises(
            ValueError, match="record_order must be one of shuffled, classes.*ufled"
        ):
            batches(shapes, manifest, **options)
        with pytest.raises(ValueError, match="split must be one of val, holdout.*'train'"):
            batches(shapes, manifest, batch_size=8, split="train")
        with pytest.raises(ValueError, match="task must be one of classification, local.*'boxes'"):
            batches(shapes, manifest, batch_size=8, task="boxes")


def test_one_shard_gives_the_same_images(shapes, manifest, tmp_path):
    one = {"train_shards": 1, "validation_shards": 1}
    few = {"train_per_class": 12, "validation_per_class": 4}
    alone = prepare_dataset("tiny-shapes", tmp_path / "one", **few, **one)
    options = {"batch_size": 32, "epochs": 1}
    batches = list(pipeline.training_batches(tmp_path / "one", alone, **options))
    assert len(batches) == 9
    held = pipeline.evaluation_batches(tmp_path / "one", alone, batch_size=96, split="holdout")
    same = pipeline.evaluation_batches(shapes, manifest, batch_size=96, split="holdout")
    assert sorted(labels_of(held)) == sorted(labels_of(same))
    assert {i.numpy().tobytes() for x, _ in held for i in x} == {
        i.numpy().tobytes() for x, _ in same for i in x
    }
