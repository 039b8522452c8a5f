import keras
import numpy as np
import pytest
import runs
import tensorflow as tf

from utils.models import fast_layers
from utils.models.fast_layers import accelerate
from utils.models.fishnet import build_fishnet
from utils.models.presets import FishNetConfig

pytestmark = pytest.mark.tracing

SMALL = FishNetConfig(runs.PLANES, (1,) * 10, (1,) * 6, activation="silu", logits_bn=True)


@pytest.fixture
def models():
    model = build_fishnet(SMALL, image_size=32, num_classes=10)
    return model, accelerate(model)


def test_same_variables_and_only_these_layers_change(models):
    plain, fast = models
    assert [v.path for v in fast.variables] == [v.path for v in plain.variables]
    for ours, theirs in zip(fast.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kinds = {
        (type(p).__name__, type(f).__name__) for p, f in zip(plain.layers, fast.layers, strict=True)
    }
    assert {(p, f) for p, f in kinds if p != f} == {("Conv2D", "PointwiseConv2D")}
    smooth = [la for la in fast.layers if type(la) is fast_layers.Activation]
    activations = [la for la in plain.layers if type(la) is keras.layers.Activation]
    assert [la.name for la in smooth] == [
        la.name for la in activations if la.activation is keras.activations.silu
    ]
    replaced = [layer for layer in fast.layers if type(layer) is fast_layers.BatchNormalization]
    norms = [la for la in plain.layers if type(la) is keras.layers.BatchNormalization]
    assert [la.name for la in replaced] == [la.name for la in norms if la.name != "logits_bn"]
    sizes = {layer.kernel_size for layer in fast.layers if type(layer) is keras.layers.Conv2D}
    assert sizes == {(3, 3)}


@pytest.mark.parametrize("changes", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_batch_normalization_that_works_otherwise_stays(changes):
    x = keras.Input((4, 4, 4))
    model = keras.Model(x, keras.layers.BatchNormalization(**changes)(x))
    (layer,) = accelerate(model).layers[1:]
    assert type(layer) is keras.layers.BatchNormalization


def test_same_logits(models):
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    plain, fast = (model(images, training=False).numpy() for model in models)
    np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [5, 8, 48])  # 8 and multiples of 16: kernels of oneDNN
def test_batch_normalization_is_that_of_keras_with_its_gradients(channels):
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 6, channels)).astype("float32")
    slope = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    found = []
    for kind in (keras.layers.BatchNormalization, fast_layers.BatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 4, channels))
        layer.beta.assign(np.linspace(1, 5, channels))

        @tf.function
        def gradients(inputs, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=True)
                loss = tf.reduce_sum(outputs * slope)
            return outputs, tape.gradient(loss, [inputs, *(v.value for v in layer.variables[:2])])

        outputs, slopes = gradients(tf.constant(x))
        found.append([outputs, *slopes, *layer.variables])
        layer.trainable = False
        found[-1].append(layer(x, training=True))
    assert len(found[1]) == 9
    for plain, fast in zip(*found, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("channels", [5, 8, 16])
def test_batch_normalization_in_bfloat16_is_that_of_float32_rounded(channels):
    x = np.random.default_rng(0).normal(3, 2, (64, 4, 6, channels)).astype("float32")
    found = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = fast_layers.BatchNormalization(momentum=0.5, dtype=dtype)
        layer.build(x.shape)
        outputs = tf.function(lambda x, layer=layer: layer(x, training=True))(
            tf.cast(x, layer.compute_dtype)
        )
        assert outputs.dtype == layer.compute_dtype
        assert layer.moving_variance.dtype == "float32"
        found.append([np.array(outputs, "float32"), *map(np.array, layer.variables[2:])])
    for plain, rounded in zip(*found, strict=True):
        np.testing.assert_allclose(rounded, plain, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("activation", ["silu", "hard_silu", "gelu", "mish"])
def test_an_activation_is_that_of_keras_with_its_gradient(activation):
    x = np.linspace(-6, 6, 1001, dtype="float32")
    slope = np.linspace(1, 2, 1001, dtype="float32")
    found = []
    for kind in (keras.layers.Activation, fast_layers.Activation):
        for dtype in ("float32", "bfloat16"):
            inputs = tf.cast(x, dtype)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = kind(activation, dtype=dtype)(inputs)
            gradient = tape.gradient(outputs, inputs, tf.cast(slope, dtype))
            assert outputs.dtype == gradient.dtype == dtype
            found.append([np.array(value, "float32") for value in (outputs, gradient)])
    (exact, _, fast, rounded) = found
    np.testing.assert_allclose(fast, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rounded, exact, rtol=2**-7, atol=2**-6)


def test_pointwise_convolution_with_bias():
    layer = keras.layers.Conv2D(7, 1, bias_initializer="normal")
    image = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype("float32")
    expected = layer(image)
    fast = fast_layers.PointwiseConv2D.from_config(layer.get_config())
    fast.build(image.shape)
    fast.set_weights(layer.get_weights())
    np.testing.assert_allclose(fast(image), expected, rtol=1e-5, atol=1e-6)


def test_tile_pooling():
    image = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype("float32")
    np.testing.assert_array_equal(
        fast_layers.TilePooling2D(2)(image), keras.layers.MaxPooling2D(2)(image)
    )
