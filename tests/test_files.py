import zipfile

import keras
import numpy as np
import pytest

from utils.files import compact_model


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential(layers)
    model.layers[-1].moving_variance.assign(np.full(16, 1e6, "float32"))  # beyond float16
    return model


def test_a_compact_model_loads_as_float32(model, tmp_path):
    model.save(tmp_path / "model.keras")
    compact_model(tmp_path / "model.keras", tmp_path / "compact.keras")
    loaded = keras.models.load_model(tmp_path / "compact.keras")
    assert {weight.dtype for weight in loaded.weights} == {"float32"}
    for weight, full in zip(loaded.weights, model.weights, strict=True):
        expected = np.array(full)
        if expected.ndim > 1:
            expected = expected.astype(np.float16)
        np.testing.assert_array_equal(np.array(weight), expected)


def test_a_compact_model_has_the_same_bytes_each_time(model, tmp_path):
    model.save(tmp_path / "model.keras")
    for name in ("a", "b"):
        compact_model(tmp_path / "model.keras", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "model.keras") as old, zipfile.ZipFile(tmp_path / "a") as new:
        assert old.namelist() == new.namelist()
        assert old.read("config.json") == new.read("config.json")


def test_a_kernel_beyond_float16_leaves_no_file(model, tmp_path):
    model.layers[0].kernel.assign(np.full((3, 3, 3, 16), 1e5, "float32"))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="beyond float16"):
        compact_model(tmp_path / "model.keras", tmp_path / "compact.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
