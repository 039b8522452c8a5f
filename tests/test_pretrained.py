"""The port against numbers of the original code; tests/reference/README.md says what they are."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from original import REFERENCES, ROOT, build_reference, fill_weights, read_reference, relative_error

from utils.models.fishnet import STAGES, build_fishnet
from utils.models.torch_weights import (
    load_torch_state_dict,
    torch_state_dict,
    torch_variables,
)

pytestmark = pytest.mark.tracing


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request):
    return request.param, read_reference(request.param)


@pytest.fixture(scope="module")
def port(reference):
    """The features and logits of the port in float32."""
    model, x = build_reference(reference[0])
    outputs = [*(model.get_layer(stage).output for stage in STAGES), model.output]
    *features, logits_eval = keras.Model(model.input, outputs)(x, training=False)
    return [np.asarray(f) for f in features], logits_eval, model(x, training=True)


@pytest.fixture(scope="module")
def training(reference):
    """Loss and gradient norms of the port in float64, so that all noise is the reference's."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model, x = build_reference(reference[0])
        parameters = {name: v.value for name, v in torch_variables(model) if v.trainable}
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(
                    np.arange(len(x)), model(x, training=True), from_logits=True
                )
            )
        gradients = tape.gradient(loss, parameters)
    finally:
        keras.config.set_dtype_policy(before)
    return float(loss), {name: float(tf.norm(g)) for name, g in gradients.items()}


def test_stage_shapes(reference, port):
    features, *_ = port
    nchw = [list(f.transpose(0, 3, 1, 2).shape) for f in features]
    assert nchw == reference[1]["stage_shapes_nchw"]


def test_stage_statistics(reference, port):
    features, *_ = port
    statistics = [(f.mean(), f.std(ddof=1)) for f in features]
    np.testing.assert_allclose(statistics, reference[1]["stage_mean_std"], rtol=1e-5)


def test_evaluation_logits(reference, port):
    _, logits, _ = port
    assert relative_error(logits, reference[1]["logits_eval"]) <= 1e-5


def test_training_logits(reference, port):
    *_, logits = port
    assert relative_error(logits, reference[1]["logits_train"]) <= 1e-3


def test_training_loss(reference, training):
    loss, _ = training
    assert loss == pytest.approx(reference[1]["loss_train"], rel=1e-5)


def test_gradient_norms(reference, training):
    """Gradients to 1 %; in FishNet-150 those below a tenth of the largest to 3 %.

    Negligible is what stays below 1e-6 of the largest: the bridge's bias in front of a batch
    normalization has no gradient but rounding noise. FishNet-150 is deep enough for rounding to
    flip a ReLU or a maximum here and there, so that the original, in float32, is itself up to 3 %
    from exact gradients there (15 of 454 parameters differ by more than 1 %).
    """
    name, numbers = reference
    _, norms = training
    expected = numbers["grad_norm"]
    assert norms.keys() == expected.keys()
    largest = max(expected.values())
    negligible = [key for key, norm in expected.items() if norm < 1e-6 * largest]
    assert negligible == ["fish.fish.3.1.bias"]
    for key in expected.keys() - negligible:
        weak = name == "fishnet150_224" and expected[key] < 0.1 * largest
        assert norms[key] == pytest.approx(expected[key], rel=0.03 if weak else 0.01), key


def test_small_model_on_jax():
    script = """if True:
        import json
        import jax, keras
        import original as t
        import utils.models.blocks
        # All weights are replaced; zeros spare JAX compiling a random initializer for each shape.
        utils.models.blocks.initializer = lambda *_: "zeros"
        model, x = t.build_reference("small_64")
        expected = t.read_reference("small_64")
        weights = [w.value for w in model.trainable_weights]
        state = [w.value for w in model.non_trainable_weights]
        run = jax.jit(model.stateless_call, static_argnames="training")
        errors = []
        for mode in ("eval", "train"):
            logits, _ = run(weights, state, x, training=mode == "train")
            errors.append(t.relative_error(logits, expected[f"logits_{mode}"]))
        print(json.dumps([keras.backend.backend(), *errors]))
    """
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    backend, evaluation, training = json.loads(result.stdout.splitlines()[-1])
    assert backend == "jax"
    assert evaluation <= 1e-5
    assert training <= 1e-3


@pytest.fixture
def small():
    config, image_size, num_classes, _ = REFERENCES["small_64"]
    return build_fishnet(config, image_size=image_size, num_classes=num_classes)


def test_names_are_those_of_the_original(small):
    names = [name for name, _ in torch_variables(small)]
    assert len(names) == len(set(names))
    assert set(names) == set(read_reference("small_64")["names"])


def test_the_way_back_to_the_original_is_exact(small):
    expected = fill_weights(read_reference("small_64")["shapes"])
    load_torch_state_dict(small, expected)
    found = torch_state_dict(small)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])


def test_num_batches_tracked_is_ignored(small):
    state_dict = fill_weights(read_reference("small_64")["shapes"])
    state_dict["conv1.1.num_batches_tracked"] = np.array(7)
    load_torch_state_dict(small, state_dict)


def test_every_misfit_is_listed_and_nothing_is_changed(small):
    state_dict = fill_weights(read_reference("small_64")["shapes"])
    del state_dict["conv1.0.weight"]
    state_dict["fish.fish.10.weight"] = np.zeros(3, "float32")
    state_dict["fish.fish.9.4.1.weight"] = np.zeros((10, 264, 1, 1), "float32")
    before = [np.array(weight) for weight in small.weights]
    with pytest.raises(ValueError, match="does not fit") as error:
        load_torch_state_dict(small, state_dict)
    assert str(error.value).splitlines()[1:] == [
        "missing: conv1.0.weight",
        "unexpected: fish.fish.10.weight",
        "shape: fish.fish.9.4.1.weight must be (200, 264, 1, 1). Received: (10, 264, 1, 1)",
    ]
    for weight, value in zip(small.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_other_networks_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    with pytest.raises(ValueError, match="Not the name of a FishNet layer.* Received: 'dense'"):
        load_torch_state_dict(model, {})
