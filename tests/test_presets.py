import dataclasses
import json
import re
from pathlib import Path

import pytest

from utils.models import presets
from utils.models.fishnet import build_fishnet
from utils.models.presets import (
    PRESETS,
    BaselineConfig,
    FishNetConfig,
    ResNeXtConfig,
    UNetConfig,
    get_preset,
)
from utils.training.results import elapsed

SIMPLE = dataclasses.asdict(PRESETS["simple"])


def with_planes(**changes):
    planes = list(SIMPLE["network_planes"])
    for index, width in changes.items():
        planes[int(index[1:])] = width
    return {**SIMPLE, "network_planes": planes}


def test_lists_and_tuples_make_the_same_config():
    as_list = {f: list(v) if isinstance(v, tuple) else v for f, v in SIMPLE.items()}
    config = FishNetConfig(**as_list)
    assert config == PRESETS["simple"]
    assert hash(config) == hash(PRESETS["simple"])
    assert isinstance(config.network_planes, tuple)


def test_unusual_widths_can_be_built():
    planes = with_planes(p0=6, p1=10, p8=50, p9=4, p10=7, p7=46, p6=36, p5=8, p2=28)
    assert build_fishnet(FishNetConfig(**planes), image_size=32).output.shape == (None, 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {**SIMPLE, "network_planes": (16, 32)},
            "network_planes must be 11 whole numbers of at least 1. Received: (16, 32)",
        ),
        (
            {**SIMPLE, "num_res_blks": [1] * 9},
            f"num_res_blks must be 10 whole numbers of at least 1. Received: {[1] * 9}",
        ),
        (
            {**SIMPLE, "num_trans_blks": [1, 1, 1, 1, 1, -1]},
            "num_trans_blks must be 6 whole numbers of at least 0. Received: [1, 1, 1, 1, 1, -1]",
        ),
        (
            {**SIMPLE, "num_res_blks": [1.5] * 10},
            f"num_res_blks must be 10 whole numbers of at least 1. Received: {[1.5] * 10}",
        ),
        (
            {**SIMPLE, "num_res_blks": 3},
            "num_res_blks must be 10 whole numbers of at least 1. Received: 3",
        ),
        ({**SIMPLE, "groups": 0}, "groups must be a whole number of at least 1. Received: 0"),
        (
            {**SIMPLE, "groups": True},
            "groups must be a whole number of at least 1. Received: True",
        ),
        (
            {**SIMPLE, "bottleneck_ratio": 2.5},
            "bottleneck_ratio must be a whole number of at lea",
        ),
        (
            {**SIMPLE, "down_sampling": "pool"},
            "down_sampling must be one of max_pool, max_pool_3x3, average_pool, convolution. "
            "Received: 'pool'",
        ),
        (
            {**SIMPLE, "activation": "rely"},
            "relu, silu, hard_silu, gelu, mish, leaky_relu. Received: 'rely'",
        ),
        ({**SIMPLE, "dropout": 1.0}, "dropout must be a number in [0, 1). Received: 1.0"),
        ({**SIMPLE, "dropout": "x"}, "dropout must be a number in [0, 1). Received: 'x'"),
        ({**SIMPLE, "stages": "head"}, "stages must be one of all, tail. Received: 'head'"),
        (with_planes(p3=64), "must equal network_planes[4]. Received: 64 and 128"),
        (with_planes(p0=2), "at least 4"),
        (with_planes(p3=8, p4=8), "network_planes[4] at least 16"),
        (
            with_planes(p5=96),
            "multiple of the output width. "
            "Received: stage 5 (body_1) with input width 128 and network_planes[5]=96",
        ),
        (with_planes(p6=100), "stage 6 (body_2) with input width 192 and network_planes[6]=100"),
        (with_planes(p7=256), "stage 7 (body_3) with input width 128 and network_planes[7]=256"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_rule(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FishNetConfig(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            ResNeXtConfig,
            {"depths": (3, 4, 6, 3), "groups": 0, "group_width": 4},
            "groups must be",
        ),
        (
            ResNeXtConfig,
            {"depths": (3, 4), "groups": 2, "group_width": 4},
            "depths must be 4 who",
        ),
        (BaselineConfig, {"application": "ResNet50", "dropout": "1e-1"}, "Received: '1e-1'"),
        (UNetConfig, {"width": 0.5}, "width must be a whole number of at least 1. Received: 0.5"),
        (UNetConfig, {"width": 8, "depth": 0}, "depth must be a whole number of at least 1."),
    ],
)
def test_baselines_are_checked_too(kind, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**arguments)


def test_the_comments_on_presets_agree_with_the_results():
    source = Path(presets.__file__).read_text()
    pattern = r"(\d+) epochs: (\d+) minutes, validation top-1 ([\d.]+) %\s(?:\s+# )?\((.+)\)"
    claims = re.findall(pattern, source)
    assert len(claims) >= 11
    for epochs, minutes, top1, run_id in claims:
        result = json.loads(Path(f"report/results/{run_id}.json").read_text())
        assert (len(result["history"]["loss"]), result["env"]["cpu_count"]) == (int(epochs), 2)
        assert elapsed(result) / 60 == pytest.approx(float(minutes), abs=0.5)
        assert f"{result['metrics']['top1']:.1%}" == f"{top1}%"


def test_unknown_preset_lists_the_names():
    with pytest.raises(ValueError, match="Received: 'fishnet152'") as error:
        get_preset("fishnet152")
    assert all(name in str(error.value) for name in PRESETS)


def test_presets_can_be_changed():
    wide = get_preset("simple", width=3 / 8, blocks=2, activation=None, dropout=0.5)
    assert wide.network_planes == (24, 48, 96, 192, 192, 192, 144, 96, 120, 312, 600)
    assert (wide.num_res_blks, wide.num_trans_blks) == ((2,) * 10, (2,) * 6)
    assert (wide.activation, wide.dropout) == ("relu", 0.5)
    assert get_preset("resnet50", dropout=0.2).dropout == 0.2
    assert get_preset("simple", blocks=4) == PRESETS["complex"]


def test_what_a_preset_does_not_have_cannot_be_changed():
    with pytest.raises(ValueError, match="activation cannot be changed in resnet50, which has app"):
        get_preset("resnet50", activation="silu")
    with pytest.raises(ValueError, match="width can be changed in a FishNet only. .*='resnext50'"):
        get_preset("resnext50", width=0.5)
    for width in (0.3, 0, -0.25, "1e-1"):
        with pytest.raises(
            ValueError, match="width must be a positive multiple of 1/64, such"
        ) as e:
            get_preset("simple", width=width)
        assert str(e.value).endswith(f" as 0.25. Received: {width!r}")
