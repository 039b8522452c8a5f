"""Network variants as data: what tells one network from another, under a name."""

import dataclasses
import operator


@dataclasses.dataclass(frozen=True)
class FishNetConfig:
    """Widths and depths of one FishNet.

    Stages are counted as in the paper's figure: 1-3 tail, 4 bridge, 5-7 body, 8-10 head. Lists and
    tuples are both taken; tuples are stored.

    Source: arXiv 1901.03495, section 3; field names as in the authors' `net_factory.py`.

    Raises:
        ValueError: if no network can be built from the numbers.
    """

    network_planes: tuple[int, ...]  # channels: the stem's, then each stage's own (without branch)
    num_res_blks: tuple[int, ...]  # bottlenecks in the trunk of stages 1-10
    num_trans_blks: tuple[int, ...]  # bottlenecks in the transfer branch of stages 5-10; 0: none

    def __post_init__(self):
        object.__setattr__(self, "network_planes", _ints("network_planes", self.network_planes, 11))
        object.__setattr__(self, "num_res_blks", _ints("num_res_blks", self.num_res_blks, 10))
        branches = _ints("num_trans_blks", self.num_trans_blks, 6, smallest=0)
        object.__setattr__(self, "num_trans_blks", branches)

        planes = self.network_planes
        if min(planes) < 4 or planes[4] < 16:
            raise ValueError(
                "Each width in `network_planes` must be at least 4 (a bottleneck works on a "
                "quarter of it) and network_planes[4] at least 16 (the bridge squeezes it by 16). "
                f"Received: network_planes={planes}"
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
class BaselineConfig:
    """A network of `keras.applications` with a small classifier on top."""

    application: str  # name of the builder in keras.applications
    hidden_units: tuple[int, ...] = (64,)  # ReLU layers between global average and classifier


def _ints(field, values, length, smallest=1):
    """Returns `values` as a tuple of `length` ints from `smallest` on, or raises ValueError."""
    try:
        numbers = tuple(operator.index(value) for value in values)
    except TypeError:
        numbers = ()
    if len(numbers) != length or min(numbers) < smallest:
        raise ValueError(
            f"`{field}` must be {length} whole numbers from {smallest}. Received: {values!r}"
        )
    return numbers


_PAPER_PLANES = (64, 128, 256, 512, 512, 512, 384, 256, 320, 832, 1600)
_QUARTER_PLANES = tuple(planes // 4 for planes in _PAPER_PLANES)

PRESETS: dict[str, FishNetConfig | BaselineConfig] = {
    # papermill notebooks/03_train.ipynb report/executed/simple.ipynb -p preset simple
    # Eight epochs in a quarter of an hour on two free CPU cores; a val top-1 of 42 %.
    # 654,200 parameters at 200 classes; the course report's simple has 667,584.
    "simple": FishNetConfig(_QUARTER_PLANES, (1,) * 10, (1,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/medium.ipynb -p preset medium
    # 1,034,136 parameters at 200 classes; the course report's medium has 1,034,440.
    "medium": FishNetConfig(_QUARTER_PLANES, (2,) * 10, (2,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/complex.ipynb -p preset complex
    # Twelve epochs (-p epochs 12) in fifty minutes on two free CPU cores; a val top-1 of 47 %.
    # 1,794,008 parameters at 200 classes; the course report's complex has 1,797,960.
    "complex": FishNetConfig(_QUARTER_PLANES, (4,) * 10, (4,) * 6),
    # papermill notebooks/03_train.ipynb report/executed/fishnet99.ipynb -p preset fishnet99
    # 16,628,904 parameters at 1,000 classes, 4.31 G multiply-accumulates at 224.
    "fishnet99": FishNetConfig(_PAPER_PLANES, (2, 2, 6, 2, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 4)),
    # papermill notebooks/03_train.ipynb report/executed/fishnet150.ipynb -p preset fishnet150
    # 24,959,400 parameters at 1,000 classes, 6.45 G multiply-accumulates at 224.
    "fishnet150": FishNetConfig(_PAPER_PLANES, (2, 4, 8, 4, 2, 2, 2, 2, 2, 4), (2, 2, 2, 2, 2, 4)),
    # papermill notebooks/03_train.ipynb report/executed/fishnet201.ipynb -p preset fishnet201
    # 44,584,552 parameters at 1,000 classes, 10.58 G multiply-accumulates at 224.
    "fishnet201": FishNetConfig(
        _PAPER_PLANES, (3, 4, 12, 4, 2, 2, 2, 2, 3, 10), (2, 2, 2, 2, 2, 9)
    ),
    # papermill notebooks/03_train.ipynb report/executed/resnet_report.ipynb -p preset resnet_report
    # 23,731,848 parameters at 200 classes, exactly the course report's ResNet.
    "resnet_report": BaselineConfig(application="ResNet50", hidden_units=(64,)),
}


def get_preset(name):
    """Looks up a preset.

    Args:
        name: a key of `PRESETS`.

    Returns:
        Its `FishNetConfig` or `BaselineConfig`.

    Raises:
        ValueError: if there is no such preset; lists the names.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown preset. Valid names: {', '.join(PRESETS)}. Received: {name!r}")
    return PRESETS[name]
