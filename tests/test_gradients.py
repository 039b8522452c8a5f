import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf

from utils.analysis.gradients import (
    GROUPS,
    beside_untrained,
    grad_cam,
    gradient_norms,
    keep_gradient_norms,
    kept_images,
)
from utils.models.fishnet import build_fishnet
from utils.models.presets import FishNetConfig
from utils.training.predictions import load_predictions
from utils.training.results import read_result

pytestmark = pytest.mark.tracing

SMALL = FishNetConfig(runs.PLANES, (1,) * 10, (1,) * 6)


@pytest.fixture(scope="module")
def fish():
    keras.utils.set_random_seed(0)
    return build_fishnet(SMALL, image_size=64, num_classes=10)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")


def test_grad_cam_finds_where_the_class_is():
    """Class 0 is red, class 1 is green: the maps must point at where that color is."""
    inputs = keras.Input((8, 8, 3))
    seen = keras.layers.Conv2D(3, 1, use_bias=False, name="seen")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(seen))
    model.get_layer("seen").set_weights([np.eye(3, dtype="float32")[None, None]])
    image = np.zeros((1, 8, 8, 3), "float32")
    image[0, 2, 3, 0], image[0, 5, 6, 1] = 2, 1
    both = np.concatenate([image, image])
    maps = grad_cam(model, both, [0, 1], ["seen"])["seen"]
    expected = np.zeros((2, 8, 8))
    expected[0, 2, 3] = expected[1, 5, 6] = 1
    np.testing.assert_allclose(maps, expected)


def test_grad_cam_of_the_fish(fish, images):
    maps = grad_cam(fish, images, np.arange(4), ["tail_1", "body_3", "head_3"])
    assert {name: m.shape for name, m in maps.items()} == {
        "tail_1": (4, 8, 8), "body_3": (4, 16, 16), "head_3": (4, 2, 2),
    }  # fmt: skip
    largest = np.stack([cam.max((1, 2)) for cam in maps.values()])
    # Scaled to 1; nothing at all where no channel speaks for the class.
    assert np.all(np.isclose(largest, 0, atol=1e-6) | np.isclose(largest, 1))
    assert largest.max(axis=1) == pytest.approx(1)
    assert min(cam.min() for cam in maps.values()) == 0


def test_gradient_norms_by_stage(fish, images):
    before = fish.get_weights()
    norms = gradient_norms(fish, images, np.arange(4))
    for ours, theirs in zip(fish.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(norms) == sorted(GROUPS)
    # The gradient of the last layer by hand: features x (probability - target) / images.
    features = keras.Model(fish.input, fish.get_layer("logits").input)(images, training=True)
    logits = fish(images, training=True)
    error = (keras.ops.softmax(logits).numpy() - np.eye(10)[:4]) / 4
    slope = features.numpy().reshape(4, -1).T @ error
    kernel = fish.get_layer("logits").kernel.numpy()
    expected = np.linalg.norm(slope) / np.linalg.norm(kernel)
    assert norms["logits"] == pytest.approx(expected, rel=1e-3)


def test_parts_of_another_network(images):
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1_conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    assert sorted(gradient_norms(model, images, np.arange(4))) == ["conv1", "logits"]


def test_norms_beside_those_at_initialization(images):
    labels = np.zeros(len(images), int)
    run = {"preset": "simple", "config": {"stem": "imagenet"}}
    norms = beside_untrained([(run, {"stem": 1.0})], images, labels)
    assert list(norms) == [("simple", "untrained"), ("simple", "trained")]
    assert norms["simple", "trained"] == {"stem": 1.0}
    again = beside_untrained([(run, {})], images, labels)
    assert again["simple", "untrained"] == norms["simple", "untrained"]
    assert min(again["simple", "untrained"].values()) > 0
    changed = {"preset": "simple", "config": {"stem": "half", "activation": "silu"}}
    other = beside_untrained([(changed, {})], images, labels)["simple", "untrained"]
    assert other.keys() == again["simple", "untrained"].keys()
    assert other["stem"] != pytest.approx(again["simple", "untrained"]["stem"], rel=0.05)


def test_gradient_norms_are_added_to_a_result(tmp_path):
    run_id = "gradients-residual-seed0"
    shutil.copy(f"report/results/{run_id}.json", tmp_path)
    before = read_result(tmp_path / f"{run_id}.json")
    Path(tmp_path, run_id).mkdir()
    model = build_fishnet(SMALL, image_size=64, num_classes=200)
    model.save(tmp_path / run_id / "model.keras")
    predictions = load_predictions("report/results/simple-tuned-8ep-seed0.npz")
    norms = keep_gradient_norms(run_id, predictions, results_dir=tmp_path, runs_dir=tmp_path)
    assert norms == pytest.approx(gradient_norms(model, *kept_images(predictions)), rel=1e-3)
    after = read_result(tmp_path / f"{run_id}.json")
    assert after == {**before, "gradient_norms": norms}


def test_kept_images_are_the_drawn_ones_with_their_labels():
    predictions = load_predictions("report/results/simple-tuned-8ep-seed0.npz")
    images, labels = kept_images(predictions)
    assert images.shape == (48, 64, 64, 3)
    np.testing.assert_array_equal(labels, predictions["labels"][predictions["sample"][:48]])


def test_a_part_of_several_kernels():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1_a")(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv1_b")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="logits")(x))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    labels = np.arange(4)
    kernels = [model.get_layer(f"conv1_{name}").kernel.value for name in "ab"]
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(labels, model(images), from_logits=True)
        loss = tf.reduce_mean(loss)
    slopes = tape.gradient(loss, kernels)
    over, under = (np.sqrt(sum(np.square(x).sum() for x in xs)) for xs in (slopes, kernels))
    assert gradient_norms(model, images, labels)["conv1"] == pytest.approx(over / under, rel=1e-4)
