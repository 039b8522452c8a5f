"""What a run's config says reaches the images, the network, the optimizer and the loss."""

import dataclasses

import keras
import numpy as np
import pytest

from utils.data.manifest import load_manifest
from utils.data.plan import Source
from utils.devices import Devices
from utils.training.loop.callbacks import reported
from utils.training.loop.network import compiled_model, source_of
from utils.training.optimizers import compile_model
from utils.training.recipes import get_recipe

pytestmark = pytest.mark.tracing


def test_what_is_read(make_config, shapes):
    manifest = load_manifest(shapes)
    changes = {"batch_size": 24, "split": "holdout", "fraction": 0.5, "record_order": "classes"}
    changes |= {"crop_area": 0.25, "flip": "alternating", "cutmix": 0.5, "seed": 3}
    source = source_of(make_config(**changes).resolve(), manifest)
    assert {name: getattr(source, name) for name in changes} == changes
    assert source.augment
    assert not source_of(make_config(recipe="course").resolve(), manifest).augment
    assert source_of(make_config(task="segmentation").resolve(), manifest).task == "segmentation"
    fields = {field.name for field in dataclasses.fields(Source) if field.init}
    assert fields == {*changes, "augment", "task", "data_dir", "manifest"}


def test_the_network_and_its_optimizer(make_config, shapes):
    manifest, config = load_manifest(shapes), make_config(epochs=4, batch_size=64).resolve()
    first, same, other = (
        compiled_model(dataclasses.replace(config, seed=seed), manifest, Devices(), steps=3)[0]
        for seed in (1, 1, 2)
    )
    assert first.optimizer.get_config()["learning_rate"]["config"] == {
        "peak": pytest.approx(0.02 * (64 / 256) ** 0.5), "steps": 12, "warmup": 0.15,
    }  # fmt: skip
    scale = np.array(first.get_layer("normalization").scale)
    np.testing.assert_allclose(1 / scale, manifest["pixel_std"], rtol=1e-6)
    kernels = [np.array(model.get_layer("logits").kernel) for model in (first, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_the_loss_is_smoothed_and_what_is_reported_is_not():
    dense = keras.layers.Dense(3, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((3,)), dense])
    compile_model(model, get_recipe("tuned", label_smoothing=0.1), steps=9, batch_size=256)
    logits = np.float32([[2, 0, -1]])
    logarithms = logits[0] - np.log(np.exp(logits).sum())
    found = model.evaluate(logits, np.array([0]), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(-0.9 * logarithms[0] - 0.1 * logarithms.mean(), rel=1e-5)
    assert reported(found)["loss"] == pytest.approx(-logarithms[0], rel=1e-5)
