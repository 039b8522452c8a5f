import dataclasses

import keras
import numpy as np
import pytest
import runs

from utils.environment import dtype_policy
from utils.models.build import (
    Resized,
    build_model,
    count_macs,
    count_parameters,
    resize,
    start_from,
)
from utils.models.presets import PRESETS, BaselineConfig, get_preset

pytestmark = pytest.mark.tracing


FISHNETS = [
    ("simple", 64, 200, 654_200),
    ("medium", 64, 200, 1_034_136),
    ("complex", 64, 200, 1_794_008),
    ("wide", 64, 200, 8_895_416),
    ("residual_parameters", 64, 200, 1_788_280),
    ("residual_macs", 64, 200, 1_119_160),
    ("fishnet99", 224, 1000, 16_628_904),
    ("fishnet150", 224, 1000, 24_959_400),
    ("fishnet201", 224, 1000, 44_584_552),
    ("fishnext150", 224, 1000, 26_555_944),
]
BASELINES = [  # torchvision's counts for ResNeXt-50 (32x4d); Keras' own; MACs as published
    ("resnext50", 25_028_904, 4.23e9),
    ("resnet50", 25_583_592, 3.86e9),
    ("resnet101", 44_601_832, 7.6e9),
    ("densenet121", 7_978_856, 2.83e9),
    ("densenet169", 14_149_480, 3.36e9),
    ("densenet201", 20_013_928, 4.29e9),
]


@pytest.mark.parametrize(("preset", "image_size", "num_classes", "parameters"), FISHNETS)
def test_fishnet_parameters(preset, image_size, num_classes, parameters):
    model = build_model(preset, image_size=image_size, num_classes=num_classes)
    assert model.name == preset
    assert count_parameters(model) == parameters
    macs_at_64 = {
        "complex": 47_101_344,
        "residual_parameters": 65_377_280,
        "residual_macs": 46_162_432,
    }
    if preset in macs_at_64:
        assert count_macs(model) == macs_at_64[preset]
    published_macs = {"fishnet99": 4.31e9, "fishnet150": 6.45e9, "fishnet201": 10.58e9}
    if preset in published_macs:
        assert count_macs(model) == pytest.approx(published_macs[preset], rel=0.01)


@pytest.mark.parametrize(
    ("preset", "hidden"), [("resnet_report", "relu"), ("resnet_report_linear", "linear")]
)
def test_resnet_of_the_report(preset, hidden):
    model = build_model(preset)
    assert model.get_layer("hidden_1").activation.__name__ == hidden
    assert model.count_params() == 23_731_848
    assert count_parameters(model) == 23_678_728
    assert model.output.shape == (None, 200)


@pytest.mark.parametrize(("preset", "parameters", "macs"), BASELINES)
def test_baseline_parameters(preset, parameters, macs):
    model = build_model(preset, image_size=224, num_classes=1000)
    assert count_parameters(model) == parameters
    assert count_macs(model) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("preset", ["resnet50", "densenet121", "resnext50"])
def test_small_stem_of_baselines(preset):
    """The first convolution becomes 3x3; the features before the pooling are 2, 4 or 16 wide."""
    own, half, full = (build_model(preset, stem=stem) for stem in ("imagenet", "half", "full"))
    widths = [m.get_layer("average").input.shape[1] for m in (own, half, full)]
    assert widths == [2, 4, 8]
    saved = (7 * 7 - 3 * 3) * 3 * 64
    assert count_parameters(own) - count_parameters(half) == saved
    assert count_parameters(half) == count_parameters(full)


def test_fishnext_has_groups_of_four_channels_or_more():
    model = build_model("fishnext150")
    sizes = {}
    for layer in model.layers:
        if layer.name.endswith("_conv2") and "block" in layer.name:
            sizes[layer.name] = (layer.groups, layer.filters // layer.groups)
    assert sizes["tail_1_block1_conv2"] == (16, 4)
    assert sizes["body_3_branch_block1_conv2"] == (8, 4)
    assert sizes["head_2_block1_conv2"] == (16, 26)
    assert min(size for _, size in sizes.values()) == 4


def test_presets_that_no_source_counts():
    """With the other tests of this module, all that there are."""
    parameters = {"simple_tail": 55_168, "residual": 655_480, "unet": 542_744}
    found = {name: count_parameters(build_model(name)) for name in parameters}
    assert found == parameters
    counted = {case[0] for case in (*FISHNETS, *BASELINES)}
    assert counted | {"resnet_report", "resnet_report_linear"} | parameters.keys() == PRESETS.keys()


def test_configs_are_taken_as_well_as_names():
    by_name, by_config = build_model("simple"), build_model(PRESETS["simple"])
    assert by_config.count_params() == by_name.count_params()


def test_baseline_takes_pixels_and_gives_float32_logits():
    with dtype_policy("mixed_bfloat16"):
        model = build_model(
            BaselineConfig("MobileNetV2", hidden_units=()),
            num_classes=3,
            normalization=([127.5] * 3, [127.5] * 3),
        )
    assert model.layers[1].name == "normalization"
    assert model.layers[-1].name == "logits"
    assert model(np.full((2, 64, 64, 3), 255, "uint8")).dtype == "float32"


def test_errors_state_the_rule():
    with pytest.raises(ValueError, match="task must be one of classification, local.*'detection'"):
        build_model("simple", task="detection")
    with pytest.raises(ValueError, match="preset must be one of simple, .* 'sample'"):
        build_model("sample")
    for preset in ("resnet50", "resnext50", "unet"):
        with pytest.raises(ValueError, match="stem must be one of imagenet, half, full.*'tiny'"):
            build_model(preset, stem="tiny")
    with pytest.raises(ValueError, match="MobileNetV2 does not begin with a padded convolution"):
        build_model(BaselineConfig("MobileNetV2"), stem="full")


def small_network(width=3, classes=2, head="logits"):
    layers = [keras.Input((4,)), keras.layers.Dense(width, name="body")]
    return keras.Sequential([*layers, keras.layers.Dense(classes, name=head)])


def test_resized_network_trains_as_one_of_that_size():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), "uint8")
    fish = dataclasses.replace(runs.SMALL, stages="all")
    plain = build_model(fish, stem="half", num_classes=5)
    small = build_model(fish, stem="half", num_classes=5, image_size=32)
    small.set_weights(plain.get_weights())
    resized = Resized(plain)
    np.testing.assert_array_equal(resized(images), plain(images))
    resized.train_at(32)
    np.testing.assert_array_equal(resized(images), plain(images))
    means = images.reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4), dtype="float32")
    logits = (network(x, training=True) for network, x in ((resized, images), (small, means)))
    ours, theirs = map(keras.ops.convert_to_numpy, logits)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(resized.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="image_sizes must be at most 64, .* Received: 80"):
        resized.train_at(80)


def test_resize_by_area():
    images = np.arange(4 * 4 * 3, dtype="uint8").reshape(1, 4, 4, 3)
    np.testing.assert_array_equal(resize(images, 4), images)
    means = images.reshape(1, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(images, 2), means)
    # Of four pixels three: each covers one and a third.
    weights = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]]) / 4
    expected = np.einsum("ij,njkc,lk->nilc", weights, images.astype(float), weights)
    np.testing.assert_allclose(resize(images, 3), expected, rtol=1e-6)


def test_start_from_takes_all_that_fits(tmp_path):
    saved = small_network()
    saved.save(tmp_path / "saved.keras")
    for changes, kept in (({}, []), ({"classes": 5}, ["logits"]), ({"head": "box"}, ["box"])):
        model = small_network(**changes)
        own = model.layers[-1].get_weights()[0]
        assert start_from(model, tmp_path / "saved.keras") == kept
        np.testing.assert_array_equal(model.layers[0].kernel, saved.layers[0].kernel)
        expected = own if kept else saved.layers[-1].kernel
        np.testing.assert_array_equal(model.layers[-1].kernel, expected)


def test_start_from_another_network_lists_what_differs(tmp_path):
    small_network(width=7).save(tmp_path / "saved.keras")
    model = small_network()
    before = model.get_weights()
    with pytest.raises(ValueError, match="saved.keras is of another network; choose") as error:
        start_from(model, tmp_path / "saved.keras")
    assert str(error.value).splitlines() == [
        f"initial_weights: {tmp_path}/saved.keras is of another network; choose a file of the same "
        "preset, stem, activation and down-sampling. Mismatches (1):",
        "shapes: body must have [(4, 3), (3,)]. Received: [(4, 7), (7,)]",
    ]
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("stem", "changes", "difference"),
    [
        (
            *("imagenet", {"activation": "silu"}),
            "stem_act1 must be Activation(activation=relu). Received: Activation(activation=silu)",
        ),
        (
            *("half", {}),
            "stem must be MaxPooling2D(strides=(2, 2), pool_size=(3, 3)). Received: "
            "Activation(activation=relu)",
        ),
        (
            *("imagenet", {"down_sampling": "average_pool"}),
            " must be MaxPooling2D(strides=(2, 2), pool_size=(2, 2)). Received: "
            "AveragePooling2D(strides=(2, 2), pool_size=(2, 2))",
        ),
    ],
)
def test_weights_of_a_network_that_only_works_otherwise_are_refused(
    tmp_path, stem, changes, difference
):
    saved = dataclasses.replace(runs.SMALL, **changes)
    build_model(saved, num_classes=5, stem=stem).save(tmp_path / "saved.keras")
    with pytest.raises(ValueError, match="another network; choose") as error:
        start_from(build_model(runs.SMALL, num_classes=5), tmp_path / "saved.keras")
    assert difference in str(error.value)


def test_start_from_what_is_no_model(tmp_path):
    small_network().save(tmp_path / "whole.keras")
    whole = (tmp_path / "whole.keras").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.keras").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut.keras cannot be read as a model"):
            start_from(small_network(), tmp_path / "cut.keras")
    for path in (tmp_path / "missing.keras", tmp_path):
        with pytest.raises(
            ValueError, match=f"must be a .keras file. Received: {path}, no such fi"
        ):
            start_from(small_network(), path)


def test_macs_by_hand():
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.Conv2D(10, 3, strides=2, padding="same", groups=2),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
            inner,
        ]
    )
    grouped, normalization, depthwise = 16 * 9 * 3 * 10, 16 * 10, 16 * 9 * 10
    assert count_macs(model) == grouped + normalization + depthwise + 10 * 4 + 4 * 3


@pytest.mark.parametrize("preset", ["simple", "residual", "resnext50", "unet"])
def test_batch_normalization_is_pytorch_s(preset):
    kind = keras.layers.BatchNormalization
    norms = [layer for layer in build_model(preset).layers if isinstance(layer, kind)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}


@pytest.mark.parametrize("preset", ["resnext50", "resnet50"])
def test_dropout_of_baselines(preset):
    model = build_model(get_preset(preset, dropout=0.25))
    rates = {layer.name: layer.rate for layer in model.layers if hasattr(layer, "rate")}
    assert rates["dropout"] == 0.25
    assert model.get_layer("logits").input is model.get_layer("dropout").output
