"""How large networks are, beside published sizes."""

import math
from collections.abc import Collection

import keras
import pandas as pd

from utils.models.build import build_model, count_macs, count_parameters


def size_table(
    published: pd.DataFrame,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    count_all: Collection[str] = (),
) -> pd.DataFrame:
    """Builds networks and counts their parameters and multiply-accumulates (MACs).

    Args:
        published: a row per preset, with a column `parameters`, as
            `utils.analysis.published.COURSE_REPORT` or `ARCHITECTURES`.
        image_size: height and width of an image, in pixels.
        num_classes: number of classes.
        count_all: presets of which the parameters that are not trained count as well.

    Returns:
        `pandas.DataFrame`, a row per preset: parameters; published, and deviation from it as a
        fraction; macs per image; authors_macs (see `authors_macs`), NaN for other networks than
        FishNets.
    """
    rows = {}
    for preset, parameters in published["parameters"].items():
        model = build_model(preset, image_size=image_size, num_classes=num_classes)
        count = model.count_params() if preset in count_all else count_parameters(model)
        rows[preset] = {
            "parameters": count,
            "published": parameters,
            "deviation": count / parameters - 1,
            "macs": count_macs(model),
            "authors_macs": authors_macs(model) if preset.startswith("fishnet") else math.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("preset")


def authors_macs(model: keras.Model) -> int:
    """Multiply-accumulates of a FishNet as its authors count them.

    Beyond `count_macs`, they count one for each bias, each ReLU and each value that a max-pooling
    looks at; all stages share a single pooling module, which therefore has seven counters.

    Args:
        model: a functional `keras.Model` of a FishNet.

    Returns:
        MACs per image.

    Source:
        kevin-ssy/FishNet, utils/profile.py.
    """
    macs = count_macs(model)
    for layer in model.layers:
        size = math.prod(layer.output.shape[1:])
        relu = getattr(layer, "activation", None) is keras.activations.relu
        if relu or getattr(layer, "use_bias", False):
            macs += size
        elif isinstance(layer, keras.layers.MaxPooling2D):
            macs += (1 if layer.name == "stem" else 7) * math.prod(layer.pool_size) * size
    return macs
