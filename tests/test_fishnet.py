import dataclasses
import math
import subprocess
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.patches import FancyArrowPatch

from utils.figures.fish import draw_fish
from utils.models.blocks import max_pool
from utils.models.build import count_parameters
from utils.models.fishnet import STAGES, build_fishnet
from utils.models.presets import PRESETS, FishNetConfig

pytestmark = pytest.mark.tracing

TINY = FishNetConfig(
    network_planes=[8, 8, 16, 16, 16, 16, 16, 8, 8, 16, 16],
    num_res_blks=[1, 1, 1, 1, 2, 1, 1, 1, 1, 1],
    num_trans_blks=[1, 1, 2, 1, 1, 1],
)


@pytest.fixture
def set_dtype_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def build_tiny(**kwargs):
    keras.utils.set_random_seed(0)
    return build_fishnet(TINY, **{"image_size": 32, "num_classes": 5, **kwargs})


def random_images(batch=2, size=32):
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype("float32")


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 4), ("half", 2), ("full", 1)])
def test_stage_shapes_at_each_stem(stem, stride):
    model = build_tiny(stem=stem, image_size=64)
    resolutions = [64 // stride // down for down in (1, 2, 4, 8, 8, 4, 2, 1, 2, 4, 8)]
    widths = (8, 8, 16, 16, 16, 32, 24, 16, 32, 48, 32)
    shapes = [model.get_layer(name).output.shape for name in STAGES]
    assert shapes == [(None, r, r, w) for r, w in zip(resolutions, widths, strict=True)]
    assert model.output.shape == (None, 5)
    pools = sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers)
    assert pools == 6 + (stem == "imagenet")
    assert model.count_params() == 11_822


def test_every_layer_is_named_after_its_stage():
    layers = [layer.name for layer in build_tiny(normalization=([0] * 3, [1] * 3)).layers]
    prefixes = ("image", "normalization", *STAGES, "score_", "logits")
    assert [name for name in layers if not name.startswith(prefixes)] == []
    assert layers[-1] == "logits"


def test_first_block_of_an_up_stage_sums_consecutive_channels():
    model = build_tiny()
    block = model.get_layer("body_2_block1_add")
    summed = keras.Model(model.input, [model.get_layer("body_1").output, *block.input])
    features, _, shortcut = summed(random_images())
    pairs = np.asarray(features).reshape(*features.shape[:3], 16, 2)
    np.testing.assert_allclose(shortcut, pairs.sum(axis=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stage", "dilation"), [("body_1", 1), ("body_2", 2), ("body_3", 4)])
def test_dilation_of_the_body(stage, dilation):
    model = build_tiny()
    assert model.get_layer(f"{stage}_block1_conv2").dilation_rate == (dilation, dilation)
    assert model.get_layer(f"{stage}_branch_block1_conv2").dilation_rate == (1, 1)


@pytest.mark.parametrize(
    ("down_sampling", "pool"),
    [
        ("max_pool_3x3", keras.layers.MaxPooling2D),
        ("average_pool", keras.layers.AveragePooling2D),
        ("convolution", None),
    ],
)
def test_down_sampling(down_sampling, pool):
    default = build_tiny(stem="half", image_size=64)
    config = dataclasses.replace(TINY, down_sampling=down_sampling)
    model = build_fishnet(config, stem="half", image_size=64, num_classes=5)
    shapes = [[m.get_layer(name).output.shape for name in STAGES] for m in (default, model)]
    assert shapes[0] == shapes[1]
    pools = {layer for layer in model.layers if "Pooling2D" in type(layer).__name__}
    pools = {p for p in pools if not isinstance(p, keras.layers.GlobalAveragePooling2D)}
    if pool:
        assert len(pools) == 6
        assert {type(p) for p in pools} == {pool}
        assert {p.pool_size for p in pools} == {(3, 3) if "3x3" in down_sampling else (2, 2)}
        assert model.count_params() == default.count_params()
    else:
        assert not pools
        strided = [x.name for x in model.layers if getattr(x, "strides", 1) == (2, 2)]
        assert "tail_2_block1_conv2" in strided
        assert "tail_2_block1_shortcut_conv" in strided
        assert len(strided) == 1 + 6 * 2


def test_convolutions_for_down_sampling_cost_what_the_paper_says():
    """Table 2: 26.4 M with pools, 30.2 M with convolutions; only their difference can be compared,
    as the FishNet-150 that the authors released has 24.96 M."""
    config = dataclasses.replace(PRESETS["fishnet150"], down_sampling="convolution")
    model = build_fishnet(config, image_size=32, num_classes=1000)
    assert count_parameters(model) == 28_665_384
    more = (count_parameters(model) - 24_959_400) / 1e6
    assert more == pytest.approx(30.2 - 26.4, abs=0.1)


def test_activation():
    model = build_fishnet(dataclasses.replace(TINY, activation="silu"), image_size=32)
    found = {
        layer.activation for layer in model.layers if isinstance(layer, keras.layers.Activation)
    }
    assert found == {keras.activations.silu, keras.activations.sigmoid}


def test_the_stem_s_pool_has_zeros_at_the_border():
    """As the kept weights of networks with SiLU were trained; the original pads with -inf."""
    x = keras.Input((4, 4, 1))
    pool = keras.Model(x, max_pool(x, "stem"))
    values = np.full((1, 4, 4, 1), -0.2, "float32")
    np.testing.assert_allclose(pool(values)[0, ..., 0], [[0, 0], [0, -0.2]])
    np.testing.assert_allclose(pool(-values)[0, ..., 0], np.full((2, 2), 0.2))


def test_dropout_before_the_classifier():
    model = build_fishnet(dataclasses.replace(TINY, dropout=0.5), image_size=32, num_classes=5)
    rates = {layer.name: layer.rate for layer in model.layers if hasattr(layer, "rate")}
    assert rates == {"dropout": 0.5}
    assert model.get_layer("logits").input is model.get_layer("dropout").output


def test_initial_weights():
    model = build_fishnet(PRESETS["simple"])
    for name in ("head_3_block1_conv2", "score_conv1", "logits"):
        kernel = np.asarray(model.get_layer(name).kernel)
        fan_out = kernel.size // kernel.shape[-2]
        assert kernel.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
    assert not np.any(model.get_layer("logits").bias)


def test_with_zero_init_every_bottleneck_starts_as_its_shortcut():
    plain = build_tiny()
    model = build_fishnet(dataclasses.replace(TINY, zero_init=True), image_size=32, num_classes=5)
    zero = {w.path for w in model.weights if w.path.endswith("kernel") and not np.any(w)}
    blocks = [layer.name for layer in model.layers if layer.name.endswith("_conv3")]
    assert zero == {f"{name}/kernel" for name in blocks if name != "stem_conv3"}
    images = random_images()
    both = keras.Model(
        model.input,
        [model.get_layer(f"head_1_block1_{name}").output for name in ("add", "shortcut_conv")],
    )
    np.testing.assert_array_equal(*both(images))
    model.set_weights(plain.get_weights())
    np.testing.assert_array_equal(model(images), plain(images))


def test_batch_normalization_after_the_logits():
    config = dataclasses.replace(TINY, logits_bn=True)
    model = build_fishnet(config, image_size=32, num_classes=5)
    assert count_parameters(model) == count_parameters(build_tiny()) + 2 * 5
    logits = np.array(model(random_images(batch=8), training=True))
    np.testing.assert_allclose(logits.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(logits.std(axis=0), 1, atol=1e-2)
    assert model.get_layer("logits_bn").input is model.get_layer("logits").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": "tiny"}, "stem must be one of imagenet, half, full. Received: 'tiny'"),
        ({"image_size": 48}, "multiple of the total stride, 32 .* Received: image_size=48"),
        ({"image_size": 40, "stem": "half"}, "multiple of the total stride, 16 .*=40"),
        ({"image_size": 20, "stem": "full"}, "multiple of the total stride, 8 .*=20"),
        ({"image_size": 0}, "Received: image_size=0"),
        ({"normalization": ([0, 0], [1, 1])}, "three floats each.* Received: normalization="),
        ({"normalization": ([0] * 3, [0] * 3)}, "std above zero"),
        ({"normalization": 255}, "Received: normalization=255"),
    ],
)
def test_errors_state_the_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_tiny(**arguments)


def test_normalization_is_part_of_the_model():
    mean, std = (120.0, 110.0, 100.0), (60.0, 62.0, 64.0)
    bare, full = build_tiny(), build_tiny(normalization=(mean, std))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    expected = bare((images - np.array(mean, "float32")) / np.array(std, "float32"))
    np.testing.assert_allclose(full(images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(full(images), full(images.astype("float32")))


def test_figure_shows_every_stage_and_connection():
    ax = draw_fish(build_tiny())
    texts = [text.get_text() for text in ax.texts]
    stages = [stage.replace("_", " ") for stage in STAGES]
    assert [name for name in texts if name in stages] == stages
    assert texts[:2] == ["8", "8×8"]
    assert sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches) == 10 + 6
    plt.close(ax.figure)


def test_mixed_precision_gives_float32_logits(set_dtype_policy):
    set_dtype_policy("mixed_bfloat16")
    model = build_tiny(normalization=([0] * 3, [1] * 3))
    assert model.get_layer("tail_1_block1_conv1").compute_dtype == "bfloat16"
    assert model(random_images()).dtype == "float32"


def test_saved_model_loads_without_this_package(tmp_path):
    model, images = build_tiny(normalization=([0] * 3, [1] * 3)), random_images()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras', safe_mode=True)\n"
        "np.save('logits.npy', model(np.load('images.npy')))\n"
        "assert 'utils' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), model(images))


def test_xla_computes_the_same(set_dtype_policy):
    set_dtype_policy("float64")  # in float32, rounding flips a ReLU now and then
    model, images = build_tiny(), random_images(batch=4)

    def loss_and_gradients(x):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(np.arange(4), logits, from_logits=True)
            )
        return loss, tape.gradient(loss, [w.value for w in model.trainable_weights])

    plain = tf.nest.flatten(tf.function(loss_and_gradients)(images))
    compiled = tf.nest.flatten(tf.function(loss_and_gradients, jit_compile=True)(images))
    largest = max(float(tf.norm(value)) for value in plain)
    for expected, value in zip(plain, compiled, strict=True):
        scale = max(float(tf.norm(expected)), 1e-3 * largest)
        assert float(tf.norm(value - expected)) <= 1e-4 * scale


def test_training_step_is_traced_once():
    traces, after_epoch = [], []

    def loss(labels, logits):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    model = build_tiny()
    model.compile("sgd", loss, jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices((random_images(8), np.arange(8) % 5))
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: after_epoch.append(len(traces)))
    model.fit(dataset.batch(4, drop_remainder=True), epochs=3, verbose=0, callbacks=[count])
    assert after_epoch == [after_epoch[0]] * 3
