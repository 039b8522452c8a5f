import keras
import numpy as np
import pytest

from utils.models import build_model, count_macs, count_parameters
from utils.presets import PRESETS, BaselineConfig


@pytest.mark.parametrize(
    ("preset", "image_size", "num_classes", "parameters"),
    [
        ("simple", 64, 200, 654_200),
        ("medium", 64, 200, 1_034_136),
        ("complex", 64, 200, 1_794_008),
        ("fishnet99", 224, 1000, 16_628_904),
        ("fishnet150", 224, 1000, 24_959_400),
        ("fishnet201", 224, 1000, 44_584_552),
    ],
)
def test_fishnet_parameters(preset, image_size, num_classes, parameters):
    model = build_model(preset, image_size=image_size, num_classes=num_classes)
    assert model.name == preset
    assert count_parameters(model) == parameters
    published_macs = {"fishnet99": 4.31e9, "fishnet150": 6.45e9, "fishnet201": 10.58e9}
    if preset in published_macs:
        assert count_macs(model) == pytest.approx(published_macs[preset], rel=0.01)


def test_resnet_of_the_report():
    model = build_model("resnet_report")
    assert model.count_params() == 23_731_848
    assert count_parameters(model) == 23_678_728
    assert model.output.shape == (None, 200)


def test_configs_are_taken_as_well_as_names():
    by_name, by_config = build_model("simple"), build_model(PRESETS["simple"])
    assert by_config.count_params() == by_name.count_params()


def test_baseline_takes_pixels_and_gives_float32_logits():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(
            BaselineConfig("MobileNetV2", hidden_units=()),
            num_classes=3,
            normalization=([127.5] * 3, [127.5] * 3),
        )
        assert model.layers[1].name == "normalization"
        assert model.layers[-1].name == "logits"
        assert model(np.full((2, 64, 64, 3), 255, "uint8")).dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def test_errors_state_the_rule():
    with pytest.raises(ValueError, match="Unknown preset. Valid names: simple, .* 'sample'"):
        build_model("sample")
    with pytest.raises(ValueError, match="own stem.* Received: stem='full'"):
        build_model("resnet_report", stem="full")


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
