"""Network variants as data: named configs, each with its command and what to expect of it."""

import dataclasses
import operator
from typing import Any

from utils.fields import check_choice

STEMS = {  # stride of the first convolution, whether a max-pool with stride 2 follows
    "imagenet": (2, True),
    "half": (2, False),
    "full": (1, False),
}
DOWN_SAMPLING = ("max_pool", "max_pool_3x3", "average_pool", "convolution")
STAGE_CHOICES = ("all", "tail")
ACTIVATIONS = {  # as they are called in a config, and in tables and figures
    "relu": "ReLU",
    "silu": "SiLU",
    "hard_silu": "hard SiLU",
    "gelu": "GELU",
    "mish": "Mish",
    "leaky_relu": "leaky ReLU",
}


@dataclasses.dataclass(frozen=True)
class FishNetConfig:
    """Widths, depths and kinds of blocks of one FishNet.

    Stages are counted as in the paper's figure: 1-3 tail, 4 bridge, 5-7 body, 8-10 head. Lists and
    tuples are both taken; tuples are stored.

    Source: arXiv 1901.03495, section 3; field names as in the authors' `net_factory.py`.

    Raises:
        ValueError: if no network can be built from the numbers.
    """

    network_planes: tuple[int, ...]  # channels: the stem's, then each stage's own (without branch)
    num_res_blks: tuple[int, ...]  # bottlenecks in the trunk of stages 1-10
    num_trans_blks: tuple[int, ...]  # bottlenecks in the transfer branch of stages 5-10; 0: none
    bottleneck_ratio: int = 4  # a bottleneck's 3x3 convolution has its width divided by this
    groups: int = 1  # of those convolutions, at most; each has at least 4 channels
    down_sampling: str = "max_pool"  # in `DOWN_SAMPLING`
    activation: str = "relu"  # in `ACTIVATIONS`; see `utils.models.blocks.max_pool`
    dropout: float = 0.0  # rate, before the classifier
    zero_init: bool = False  # whether the last convolution of each bottleneck starts at zero
    logits_bn: bool = False  # whether batch normalization follows the logits
    stages: str = "all"  # or "tail": the tail alone, which is a residual network

    def __post_init__(self) -> None:
        object.__setattr__(self, "network_planes", _ints("network_planes", self.network_planes, 11))
        object.__setattr__(self, "num_res_blks", _ints("num_res_blks", self.num_res_blks, 10))
        branches = _ints("num_trans_blks", self.num_trans_blks, 6, smallest=0)
        object.__setattr__(self, "num_trans_blks", branches)

        _check_fields(self, "bottleneck_ratio", "groups")
        for field, valid in (
            ("stages", STAGE_CHOICES),
            ("down_sampling", DOWN_SAMPLING),
            ("activation", ACTIVATIONS),
        ):
            check_choice(field, getattr(self, field), valid)
        self._check_widths()

    def _check_widths(self) -> None:
        planes = self.network_planes
        if min(planes) < self.bottleneck_ratio or planes[4] < 16:
            raise ValueError(
                f"Each width in `network_planes` must be at least {self.bottleneck_ratio} (a "
                f"bottleneck works on 1/{self.bottleneck_ratio} of it) and network_planes[4] at "
                f"least 16 (the bridge squeezes it by 16). Received: network_planes={planes}"
            )
        if planes[3] != planes[4]:
            raise ValueError(
                "The bridge keeps the width of the tail: network_planes[3] must equal "
                f"network_planes[4]. Received: {planes[3]} and {planes[4]}"
            )
        inputs = {5: planes[4], 6: planes[5] + planes[2], 7: planes[6] + planes[1]}
        for stage, width in inputs.items():
            if width % planes[stage]:
                raise ValueError(
                    "Channel reduction sums equal groups of channels: in an up-sampling stage the "
                    "input width must be a multiple of the output width. "
                    f"Received: stage {stage} (body_{stage - 4}) with input width {width} and "
                    f"network_planes[{stage}]={planes[stage]}"
                )


@dataclasses.dataclass(frozen=True)
class ResNeXtConfig:
    """Depths and groups of one ResNeXt.

    Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017,
    table 1; its 32x4d has 32 groups of width 4.
    """

    depths: tuple[int, ...]  # bottlenecks in each of the four stages
    groups: int  # of each 3x3 convolution
    group_width: int  # channels of a group in the first stage; it doubles from stage to stage
    dropout: float = 0.0  # rate, before the classifier

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", _ints("depths", self.depths, 4))
        _check_fields(self, "groups", "group_width")


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """A network of `keras.applications` with a small classifier on top."""

    application: str  # name of the builder in keras.applications
    hidden_units: tuple[int, ...] = ()  # of dense layers between global average and classifier
    hidden_activation: str = "relu"  # theirs, a name that `keras.activations.get` knows
    dropout: float = 0.0  # rate, before the classifier

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Width and depth of one U-Net."""

    width: int  # channels of the first level; doubled from level to level
    depth: int = 5  # levels, each at half the resolution of the one before

    def __post_init__(self) -> None:
        _check_fields(self, "width", "depth")


def total_stride(network: Any, stem: str) -> int:
    """Of which the size of a network's images must be a multiple.

    Args:
        network: a config.
        stem: a key of `STEMS`.

    Returns:
        The factor by which the network shrinks height and width; 1 of one that takes any size.
    """
    if isinstance(network, UNetConfig):
        return 2 ** (network.depth - 1)
    stride, pool = STEMS[stem]
    return 8 * stride * (2 if pool else 1) if isinstance(network, FishNetConfig) else 1


def _check_fields(config: Any, *positive: str) -> None:
    """Raises ValueError unless these fields are positive integers and the dropout a rate."""
    for field in positive:
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{field} must be a whole number of at least 1. Received: {value!r}")
    rate = getattr(config, "dropout", 0.0)
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"dropout must be a number in [0, 1). Received: {rate!r}")


def _ints(field: str, values: Any, length: int, smallest: int = 1) -> tuple[int, ...]:
    """Returns `values` as a tuple of `length` ints from `smallest` on, or raises ValueError."""
    try:
        found = tuple(operator.index(value) for value in values)
    except TypeError:
        found = ()
    if len(found) != length or min(found) < smallest:
        raise ValueError(
            f"{field} must be {length} whole numbers of at least {smallest}. Received: {values!r}"
        )
    return found


def scaled_planes(width: float) -> tuple[int, ...]:
    """The paper's widths times a factor, as a tuple for `FishNetConfig`.

    Raises:
        ValueError: if the factor is not a positive multiple of 1/64.
    """
    if not isinstance(width, (int, float)) or width <= 0 or width * 64 != int(width * 64):
        raise ValueError(
            f"width must be a positive multiple of 1/64, such as 0.25. Received: {width!r}"
        )
    return tuple(int(width * planes) for planes in _PAPER_PLANES)


_PAPER_PLANES = (64, 128, 256, 512, 512, 512, 384, 256, 320, 832, 1600)
_QUARTER_PLANES = scaled_planes(1 / 4)
_BLOCKS_150: dict[str, Any] = {
    "num_res_blks": (2, 4, 8, 4, 2, 2, 2, 2, 2, 4),
    "num_trans_blks": (2, 2, 2, 2, 2, 4),
}

PRESETS: dict[str, FishNetConfig | ResNeXtConfig | BaselineConfig | UNetConfig] = {
    # papermill notebooks/03_train.ipynb report/executed/simple.ipynb -p preset simple
    # On two CPU cores (as all minutes below); the longer one with -p epochs 30 -p activation silu:
    # 8 epochs: 12 minutes, validation top-1 43.7 % (simple-tuned-v2-8ep-seed0).
    # 30 epochs: 67 minutes, validation top-1 52.4 % (simple-tuned-v2-30ep-activation-silu-seed0).
    # With -p recipe tuned-v1:
    # 8 epochs: 16 minutes, validation top-1 41.7 % (simple-tuned-8ep-seed0).
    # 20 epochs: 41 minutes, validation top-1 46.6 % (simple-tuned-20ep-seed0).
    # 654,200 parameters at 200 classes; the course report's simple has 667,584.
    "simple": FishNetConfig(_QUARTER_PLANES, (1,) * 10, (1,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/medium.ipynb -p preset medium
    # With -p recipe tuned-v1 -p epochs 12,
    # 12 epochs: 34 minutes, validation top-1 46.7 % (medium-tuned-12ep-seed0).
    # With -p epochs 30 -p activation silu,
    # 30 epochs: 96 minutes, validation top-1 54.1 % (medium-tuned-v2-30ep-activation-silu-seed0).
    # 1,034,136 parameters at 200 classes; the course report's medium has 1,034,440.
    "medium": FishNetConfig(_QUARTER_PLANES, (2,) * 10, (2,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/complex.ipynb -p preset complex
    # -p epochs 12
    # With -p recipe tuned-v1,
    # 12 epochs: 64 minutes, validation top-1 47.6 % (complex-tuned-12ep-seed0).
    # With -p epochs 30 -p recipe course, on a slower CPU than the others,
    # 30 epochs: 320 minutes, validation top-1 24.4 % (complex-course-30ep-seed0).
    # With -p epochs 30 -p activation silu,
    # 30 epochs: 178 minutes, validation top-1 56.1 % (complex-tuned-v2-30ep-activation-silu-seed0).
    # With -p epochs 30 -p activation silu -p stem half -p image_sizes 32x15-48x10-64x5,
    # 30 epochs: 295 minutes, validation top-1 62.3 %
    # (complex-tuned-v2-30ep-stem-half-activation-silu-image-sizes-seed0).
    # On an H100, by the command in the README,
    # 100 epochs: 7 minutes, validation top-1 62.7 % (complex-stem-half-100ep-seed0).
    # 1,794,008 parameters at 200 classes; the course report's complex has 1,797,960.
    "complex": FishNetConfig(_QUARTER_PLANES, (4,) * 10, (4,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/wide.ipynb -p preset wide -p stem half
    # For a GPU; no run of it is complete yet. Three times the width of `complex`, half as deep:
    # 8,895,416 parameters at 200 classes; 843,039,552 MACs at 64 pixels with that stem.
    "wide": FishNetConfig(scaled_planes(3 / 4), (2,) * 10, (2,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/fishnet99.ipynb -p preset fishnet99
    # 16,628,904 parameters at 1,000 classes, 4.31 G multiply-accumulates at 224.
    "fishnet99": FishNetConfig(_PAPER_PLANES, (2, 2, 6, 2, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 4)),
    # papermill notebooks/03_train.ipynb report/executed/fishnet150.ipynb -p preset fishnet150
    # 24,959,400 parameters at 1,000 classes, 6.45 G multiply-accumulates at 224.
    "fishnet150": FishNetConfig(_PAPER_PLANES, **_BLOCKS_150),
    # papermill notebooks/03_train.ipynb report/executed/fishnet201.ipynb -p preset fishnet201
    # 44,584,552 parameters at 1,000 classes, 10.58 G multiply-accumulates at 224.
    "fishnet201": FishNetConfig(
        _PAPER_PLANES, (3, 4, 12, 4, 2, 2, 2, 2, 3, 10), (2, 2, 2, 2, 2, 9)
    ),
    # papermill notebooks/03_train.ipynb report/executed/resnet_report.ipynb -p preset resnet_report
    # 23,731,848 parameters at 200 classes, exactly the course report's ResNet. That its
    # hidden layer has ReLU is assumed; with the recipe "course" its units die in the first steps.
    "resnet_report": BaselineConfig("ResNet50", hidden_units=(64,)),
    # papermill notebooks/03_train.ipynb report/executed/linear.ipynb -p preset resnet_report_linear
    # With -p recipe course -p epochs 2, on a slower CPU than the others,
    # 2 epochs: 94 minutes, validation top-1 12.8 % (resnet-report-linear-course-2ep-seed0).
    # The same with a linear hidden layer, which is the default of `keras.layers.Dense`.
    "resnet_report_linear": BaselineConfig(
        "ResNet50", hidden_units=(64,), hidden_activation="linear"
    ),
    # papermill notebooks/03_train.ipynb report/executed/fishnext150.ipynb -p preset fishnext150
    # 26,555,944 parameters at 1,000 classes; the paper gives 26.2 M.
    "fishnext150": FishNetConfig(_PAPER_PLANES, **_BLOCKS_150, bottleneck_ratio=2, groups=16),
    # papermill notebooks/03_train.ipynb report/executed/resnext50.ipynb -p preset resnext50
    # 25,028,904 parameters at 1,000 classes (32x4d).
    "resnext50": ResNeXtConfig(depths=(3, 4, 6, 3), groups=32, group_width=4),
    # papermill notebooks/03_train.ipynb report/executed/resnet50.ipynb -p preset resnet50
    # The following likewise; for small images add -p stem full. Parameters at 1,000 classes:
    "resnet50": BaselineConfig("ResNet50"),  # 25,583,592
    "resnet101": BaselineConfig("ResNet101"),  # 44,601,832
    "densenet121": BaselineConfig("DenseNet121"),  # 7,978,856
    "densenet169": BaselineConfig("DenseNet169"),  # 14,149,480
    "densenet201": BaselineConfig("DenseNet201"),  # 20,013,928
    # papermill notebooks/03_train.ipynb report/executed/tail.ipynb -p preset simple_tail
    # `simple` without its body and head. 55,168 parameters at 200 classes.
    "simple_tail": FishNetConfig(_QUARTER_PLANES, (1,) * 10, (1,) * 6, stages="tail"),
    # papermill notebooks/03_train.ipynb report/executed/residual.ipynb -p preset residual
    # A residual network of the size of `simple`: 655,480 parameters at 200 classes.
    "residual": FishNetConfig(scaled_planes(1 / 2), (6,) * 10, (1,) * 6, stages="tail"),
    # papermill notebooks/03_train.ipynb report/executed/plain.ipynb -p preset residual_parameters
    # With -p epochs 30 -p activation silu, 30 epochs: 136 minutes, validation top-1 59.6 %
    # (residual_parameters-tuned-v2-30ep-activation-silu-seed0).
    # As many parameters as `complex`: 1,788,280 at 200 classes; 65,377,280 MACs at 64 pixels.
    "residual_parameters": FishNetConfig(
        (32, *_PAPER_PLANES[1:]), (4,) * 10, (1,) * 6, stages="tail"
    ),
    # papermill notebooks/03_train.ipynb report/executed/macs.ipynb -p preset residual_macs
    # With -p epochs 30 -p activation silu, 30 epochs: 131 minutes, validation top-1 56.4 %
    # (residual_macs-tuned-v2-30ep-activation-silu-seed0).
    # As many MACs as `complex`: 46,162,432 at 64 pixels; 1,119,160 parameters at 200 classes.
    "residual_macs": FishNetConfig(scaled_planes(1 / 2), (11,) * 10, (1,) * 6, stages="tail"),
    # papermill notebooks/03_train.ipynb report/executed/unet.ipynb -p preset unet
    # -p task segmentation -p dataset tiny-shapes  (all presets also take -p task localization)
    # 541,169 parameters for the masks of 24 classes, where `simple` has 521,817.
    "unet": UNetConfig(width=8),
}

# What tables and figures call a preset, where it is not by its name.
TITLES = {
    "residual": "residual network",
    "residual_parameters": "residual network of equal parameters",
    "residual_macs": "residual network of equal MACs",
    "resnet_report": "course report's ResNet",
    "resnet_report_linear": "ResNet-50, linear hidden layer",
}


def check_segments(config: Any, preset: Any) -> None:
    """Refuses networks without a decoder for masks.

    Args:
        config: of the network.
        preset: what the error calls it.

    Raises:
        ValueError: neither a FishNet nor a U-Net.
    """
    if not isinstance(config, FishNetConfig | UNetConfig):
        raise ValueError(f"task segmentation needs a FishNet or unet. Received: preset={preset!r}")


def get_preset(
    name: str, *, width: float | None = None, blocks: int | None = None, **changes: Any
) -> FishNetConfig | ResNeXtConfig | BaselineConfig | UNetConfig:
    """Looks up a preset, and changes some of its fields.

    Args:
        name: a key of `PRESETS`.
        width: of a FishNet, as a factor of the paper's.
        blocks: of a FishNet, in every stage and branch.
        **changes: fields of its config; those that are None stay as they are.

    Returns:
        Its config.

    Raises:
        ValueError: if there is no such preset or it has no such field; lists the names.
    """
    check_choice("preset", name, PRESETS)
    for field, value in (("width", width), ("blocks", blocks)):
        if value is not None and not isinstance(PRESETS[name], FishNetConfig):
            raise ValueError(f"{field} can be changed in a FishNet only. Received: preset={name!r}")
    if width is not None:
        changes["network_planes"] = scaled_planes(width)
    if blocks is not None:
        changes |= {"num_res_blks": (blocks,) * 10, "num_trans_blks": (blocks,) * 6}
    changes = {field: value for field, value in changes.items() if value is not None}
    fields = [field.name for field in dataclasses.fields(PRESETS[name])]
    for field in changes:
        if field not in fields:
            raise ValueError(
                f"{field} cannot be changed in {name}, which has {', '.join(fields)}. "
                f"Received: {changes[field]!r}"
            )
    return dataclasses.replace(PRESETS[name], **changes)
