"""Trained networks by name, as somebody else's Keras code would take them."""

import keras
import numpy as np
import pytest

import utils.models
from utils.models import build_model, load_weights

pytestmark = pytest.mark.tracing
NAME = "segmentation-simple-tail-seed0"  # the smallest


@pytest.fixture(scope="module")
def trained():
    return load_weights("simple-tuned-20ep-seed0")


def head_layers(new, old):
    """Names of the layers whose weights differ."""
    assert [layer.name for layer in new.layers] == [layer.name for layer in old.layers]
    return {
        a.name
        for a, b in zip(new.layers, old.layers, strict=True)
        if any(not np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    }


def test_by_name_and_by_path(trained):
    assert (trained.input_shape, trained.output_shape) == ((None, 64, 64, 3), (None, 200))
    again = load_weights("report/weights/simple-tuned-20ep-seed0.keras", num_classes=200)
    assert head_layers(again, trained) == set()
    built = build_model("simple", normalization=([0] * 3, [1] * 3))
    assert [w.shape for w in built.weights] == [w.shape for w in trained.weights]


def test_other_sizes_and_classes(trained):
    model = load_weights("simple-tuned-20ep-seed0", image_size=96, num_classes=7)
    assert (model.input_shape, model.output_shape) == ((None, 96, 96, 3), (None, 7))
    assert head_layers(model, trained) == {"logits"}
    kernel = np.asarray(model.get_layer("logits").kernel)
    assert kernel.std() == pytest.approx((2 / 7) ** 0.5, rel=0.1)  # as `build_model` has it
    features = []
    larger = load_weights("simple-tuned-20ep-seed0", image_size=96)
    assert head_layers(larger, trained) == set()
    # A constant image has constant features where no edge is in sight: before the first padding.
    for model in (trained, larger):
        size = model.input_shape[1]
        first = keras.Model(model.input, model.get_layer("stem").output)
        features.append(np.asarray(first(np.full((1, size, size, 3), 128.0)))[0, 8, 8])
    np.testing.assert_allclose(*features, rtol=1e-5)


def test_a_network_without_upsampling_takes_any_size(tmp_path):
    build_model("resnet50", image_size=72).save(tmp_path / "a.keras")
    model = load_weights(tmp_path / "a.keras", image_size=64)
    assert model(np.zeros((1, 64, 64, 3))).shape == (1, 200)


def test_a_network_whose_input_was_saved_as_a_list(tmp_path):
    """As ResNets and DenseNets of an earlier version were."""
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    trained = keras.Model([inputs], keras.layers.Dense(3, name="logits")(features))
    trained.save(tmp_path / "a.keras")
    model = load_weights(tmp_path / "a.keras", image_size=16, num_classes=5)
    assert model(np.zeros((2, 16, 16, 3))).shape == (2, 5)
    np.testing.assert_array_equal(model.weights[0], trained.weights[0])


def test_masks_keep_their_background():
    model = load_weights(NAME, num_classes=5, image_size=128)
    assert model.output_shape == (None, 128, 128, 6)


def test_errors_name_what_there_is(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"kept weights: complex-stem-half-100ep-seed0, .*Received: 'simpel', without ",
    ):
        load_weights("simpel")
    with pytest.raises(ValueError, match="kept weights: none; or the path of a .keras file"):
        load_weights("simple", weights_dir=tmp_path)
    with pytest.raises(ValueError, match="multiple of the total stride of simple, 32.*: 100"):
        load_weights("simple-tuned-20ep-seed0", image_size=100)
    with pytest.raises(
        ValueError, match="num_classes must be a whole number of at least 1. Received: 0"
    ):
        load_weights("simple-tuned-20ep-seed0", num_classes=0)
    with pytest.raises(ValueError, match=r"image_size must be a whole .* Received: \(96, 96\)"):
        load_weights("simple-tuned-20ep-seed0", image_size=(96, 96))
    with pytest.raises(ValueError, match=f"a complete run's folder. .*without {tmp_path}/model"):
        load_weights(tmp_path)


def test_the_folder_of_a_run(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    assert load_weights(tmp_path).count_params() == trained.count_params()


def test_a_network_with_a_box_for_images_of_another_size():
    trained = load_weights("localization-simple-seed0")
    model = load_weights("localization-simple-seed0", image_size=96, num_classes=7)
    assert model.output.shape == (None, 11)
    box, rescaling = model.get_layer("box"), model.get_layer("box_rescaling")
    assert rescaling.scale == pytest.approx(box.kernel.shape[0] ** -0.5)
    ours, theirs = (m.get_layer("stem_conv1").kernel for m in (model, trained))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(AttributeError, match="'utils.models' has no attribute 'load_weight'"):
        _ = utils.models.load_weight
