"""Numbers of the original code, and the port with the same weights; tests/reference/README.md."""

import json
import zlib
from pathlib import Path

import numpy as np

from utils.models.fishnet import build_fishnet
from utils.models.presets import PRESETS, FishNetConfig
from utils.models.torch_weights import load_torch_state_dict

ROOT = Path(__file__).parents[1]
REFERENCES = {  # config, image size, classes, images
    "small_64": (
        FishNetConfig(
            network_planes=[16, 32, 64, 128, 128, 128, 96, 64, 80, 208, 400],
            num_res_blks=[1, 2, 2, 1, 1, 2, 1, 1, 1, 2],
            num_trans_blks=[1, 2, 1, 1, 2, 2],
        ),
        *(64, 200, 4),
    ),
    "fishnet99_224": (PRESETS["fishnet99"], 224, 1000, 2),
    "fishnet150_224": (PRESETS["fishnet150"], 224, 1000, 2),
}


def read_reference(name):
    numbers = json.loads((ROOT / f"tests/reference/{name}.json").read_text())
    with np.load(ROOT / f"tests/reference/{name}.npz") as logits:
        return {**numbers, **logits}


def fill_weights(shapes):
    """The rule of tests/reference/README.md: name and shape determine every value."""
    state_dict = {}
    for name, shape in shapes.items():
        z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 4:
            z *= np.sqrt(2 / (shape[2] * shape[3] * shape[0]))
        elif name.endswith("running_var"):
            z = 1 + 0.1 * np.abs(z)
        elif name.endswith(("running_mean", "bias")):
            z *= 0.1
        else:
            z = 1 + 0.1 * z
        state_dict[name] = z.astype("float32")
    return state_dict


def build_reference(name):
    config, image_size, num_classes, images = REFERENCES[name]
    model = build_fishnet(config, image_size=image_size, num_classes=num_classes)
    load_torch_state_dict(model, fill_weights(read_reference(name)["shapes"]))
    x = np.random.RandomState(7).standard_normal((images, 3, image_size, image_size))
    return model, x.astype("float32").transpose(0, 2, 3, 1)


def relative_error(logits, expected):
    return float(np.abs(np.asarray(logits) - expected).max() / np.abs(expected).max())
