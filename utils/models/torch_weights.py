"""Weights of the authors' PyTorch code: read from their files, renamed and laid out as here; back.

python -m utils.models.torch_weights fishnet150_ckpt.pth.tar fishnet150 fishnet150.keras

Layouts: a PyTorch convolution kernel is (out, in, height, width), ours (height, width, in, out).
The original classifies with a 1x1 convolution, here a dense layer: a kernel (in, out).

Source: state dict of `models/fishnet.py` of github.com/kevin-ssy/FishNet at commit b968f02.
"""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from utils.commands import one_line_errors
from utils.fields import first_of
from utils.files import replacing, save_model
from utils.models.build import build_model
from utils.models.fishnet import STAGES

# Of the R, G and B channels in units of 0..255, as in torchvision's models and the authors' code.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# Layers outside of bottlenecks.
_TORCH_PREFIXES = {
    **{f"stem_conv{i}": f"conv{i}.0" for i in (1, 2, 3)},
    **{f"stem_bn{i}": f"conv{i}.1" for i in (1, 2, 3)},
    "bridge_score_bn1": "fish.fish.3.0.0",
    "bridge_score_conv1": "fish.fish.3.0.2",
    "bridge_score_bn2": "fish.fish.3.0.3",
    "bridge_score_conv2": "fish.fish.3.1",
    "bridge_se_bn1": "fish.fish.3.3.0.0",
    "bridge_se_conv1": "fish.fish.3.3.0.3",
    "bridge_se_conv2": "fish.fish.3.3.0.5",
    "score_bn1": "fish.fish.9.3.0",
    "score_conv1": "fish.fish.9.3.2",
    "score_bn2": "fish.fish.9.3.3",
    "logits": "fish.fish.9.4.1",
}

_BLOCK = re.compile(rf"({'|'.join(STAGES)})(_branch)?_block(\d+)_(.+)")

# What wraps a network may prefix its names: DataParallel, torch.compile, a training module.
_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
_OUR_KEY = "fishnet_keras"  # of a checkpoint, under which is how its images are to be prepared
# Keys of a checkpoint under which the state dict may be, possibly one within the other.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")

_TORCH_NAMES = {  # from a Keras variable's name
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def torch_prefix(layer_name: str) -> str:
    """Translates the name of a FishNet layer with weights.

    Args:
        layer_name: for example "tail_1_block1_shortcut_bn".

    Returns:
        The prefix of its parameters in the original, for example "fish.fish.0.0.0.shortcut.0".

    Raises:
        ValueError: if a FishNet has no such layer.
    """
    if layer_name in _TORCH_PREFIXES:
        return _TORCH_PREFIXES[layer_name]
    match = _BLOCK.fullmatch(layer_name)
    if match is None:
        raise ValueError(f"Not the name of a FishNet layer with weights. Received: {layer_name!r}")
    stage, branch, block, part = match.groups()
    path = 2 if stage == "bridge" else int(branch is not None)
    part = {"shortcut_bn": "shortcut.0", "shortcut_conv": "shortcut.2"}.get(part, part)
    return f"fish.fish.{STAGES.index(stage) - 1}.{path}.{int(block) - 1}.{part}"


def torch_variables(model: keras.Model) -> Iterator[tuple[str, keras.Variable]]:
    """Yields each weight of a FishNet with its name in the original.

    Args:
        model: a model of `build_fishnet`.

    Yields:
        (name of the parameter in the original, Keras variable), in the order of the layers.
    """
    for layer in model.layers:
        for variable in layer.weights:
            yield f"{torch_prefix(layer.name)}.{_TORCH_NAMES[variable.name]}", variable


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the parameters of a PyTorch checkpoint without executing any code in it.

    Needs PyTorch (`pip install torch`).

    Args:
        path: a file of `torch.save`, such as `.pth.tar`: a state dict, or a dict that has one under
            "state_dict", "model_state_dict" or "model". The prefixes "module.", "_orig_mod." and
            "model." of wrappers are dropped.

    Returns:
        Dict of NumPy arrays by the original's names; floats of any precision as float32.

    Raises:
        ValueError: the file is not one of PyTorch, holds anything but tensors and plain values, or
            no state dict.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parameters, and what `save_torch_checkpoint` wrote beside them."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{named[1]}, code that" if named else "something that"
        raise ValueError(
            f"{path} holds {what} is not a tensor or a plain value: refused."
        ) from error
    except OSError:
        raise
    except Exception as error:  # of whatever kind the formats raise on damaged files
        raise ValueError(f"{path} cannot be read as a file of PyTorch. {error}") from error
    state_dict = _find_state_dict(found)
    if not state_dict or not all(isinstance(v, torch.Tensor) for v in state_dict.values()):
        raise ValueError(
            f"{path} holds no state dict, a dict of tensors by name, neither by itself nor under "
            f"{', '.join(_STATE_DICT_KEYS)}. Received: {_summary(found)}"
        )
    arrays = {
        _WRAPPERS.sub("", name): (v.float() if v.is_floating_point() else v).detach().numpy()
        for name, v in state_dict.items()
    }
    return arrays, found.get(_OUR_KEY, {})


def _find_state_dict(found: Any) -> dict:
    """Follows the keys under which training code keeps a state dict."""
    while isinstance(found, dict):
        key = next((k for k in _STATE_DICT_KEYS if isinstance(found.get(k), dict)), None)
        if key is None:
            return found
        found = found[key]
    return {}


def _summary(found: Any) -> str:
    """What a file holds instead of a state dict, in a few words."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    return f"a dict with the keys {', '.join(map(str, [*found][:6])) or '(none)'}"


def convert_torch_checkpoint(
    path: str | Path, preset: str, output: str | Path, *, image_size: int | None = None
) -> keras.Model:
    """Converts a checkpoint of the authors' training to a `.keras` file.

    The model takes pixels of 0..255; its first layer applies the mean and standard deviation that
    `save_torch_checkpoint` wrote into the file, or else ImageNet's.
    `utils.analysis.classify.evaluate_folder` measures its accuracy.

    Args:
        path: as for `read_torch_checkpoint`.
        preset: its network: fishnet99, fishnet150 or fishnet201.
        output: the `.keras` file to write.
        image_size: height and width of the model's input, in pixels; None: as the file says, or
            else 224.

    Returns:
        The `keras.Model`.

    Raises:
        ValueError: as for `read_torch_checkpoint`, or the checkpoint is of another network.
    """
    state_dict, own = _read(path)
    logits = state_dict.get(f"{_TORCH_PREFIXES['logits']}.weight", np.empty(0))
    model = build_model(
        preset,
        image_size=image_size or own.get("image_size", 224),
        num_classes=max(1, len(logits)),
        normalization=(own.get("mean", MEAN), own.get("std", STD)),
    )
    try:
        load_torch_state_dict(model, state_dict)
    except ValueError as error:
        text = first_of(str(error).splitlines(), most=6, between="\n")
        raise ValueError(f"{path} is not a checkpoint of {preset}. {text}") from error
    save_model(model, Path(output))
    return model


def load_torch_state_dict(model: keras.Model, state_dict: Mapping[str, np.ndarray]) -> None:
    """Sets all weights of a FishNet from parameters of the original code.

    Args:
        model: a model of `build_fishnet`; changed in place, or not at all.
        state_dict: NumPy arrays in PyTorch layout by the original's names;
            `num_batches_tracked` is ignored.

    Raises:
        ValueError: if keys are missing, unexpected or of another shape; lists all of them.
    """
    variables = dict(torch_variables(model))
    arrays = {
        name: np.asarray(array)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    problems = [f"missing: {name}" for name in variables if name not in arrays]
    problems += [f"unexpected: {name}" for name in arrays if name not in variables]
    for name, variable in variables.items():
        expected = _torch_shape(variable)
        if name in arrays and arrays[name].shape != expected:
            problems.append(f"shape: {name} must be {expected}. Received: {arrays[name].shape}")
    if problems:
        raise ValueError("The state dict does not fit the model:\n" + "\n".join(problems))
    for name, variable in variables.items():
        variable.assign(_to_keras(arrays[name], variable))


def save_torch_checkpoint(model: keras.Model, path: str | Path) -> None:
    """Writes the weights of a FishNet as a checkpoint for the authors' code.

    Args:
        model: a model of `build_fishnet`, with normalization as its first layer or without.
        path: the file to write: a dict with the state dict under "state_dict", and under
            "fishnet_keras" the image size, and mean and std of the pixels, which the authors' code
            leaves to the data.

    Raises:
        ValueError: the authors' code has no such network; says why.
    """
    import torch

    _check_theirs(model)
    state_dict = {name: torch.from_numpy(x) for name, x in torch_state_dict(model).items()}
    own: dict[str, Any] = {"image_size": model.input_shape[1]}
    if model.layers[1].name == "normalization":
        settings = model.layers[1].get_config()
        own["std"] = [1 / scale for scale in settings["scale"]]
        own["mean"] = [-x * std for x, std in zip(settings["offset"], own["std"], strict=True)]
    with replacing(path) as file:
        torch.save({"state_dict": state_dict, _OUR_KEY: own}, file)


def _check_theirs(model: keras.Model) -> None:
    """Names and shapes tell their network from others, but for what has no weights."""
    torch_state_dict(model)
    stride = model.input_shape[1] // model.get_layer("stem").output.shape[1]
    activations = [x for x in model.layers if isinstance(x, keras.layers.Activation)]
    others = sorted({x.get_config()["activation"] for x in activations} - {"relu", "sigmoid"})
    others += [x.name for x in model.layers if _is_ours(x) and not x.name.startswith("stem")]
    others += [f"no {s}" for s in STAGES if not any(x.name.startswith(s) for x in model.layers)]
    if stride != 4 or others:
        raise ValueError(
            "The authors' code has whole FishNets with a stem of stride 4, relu, max-pools 2x2 and "
            "convolutions without groups. "
            f"Received: {', '.join([f'stride {stride}', *others])}"
        )


def _is_ours(layer: keras.Layer) -> bool:
    """Whether a layer has groups, or halves the resolution in another way than the authors'."""
    if isinstance(layer, keras.layers.MaxPooling2D):
        return layer.pool_size != (2, 2)
    if isinstance(layer, keras.layers.Conv2D):
        return layer.strides != (1, 1) or layer.groups > 1
    return isinstance(layer, keras.layers.AveragePooling2D)


def torch_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """The inverse of `load_torch_state_dict`.

    Args:
        model: a model of `build_fishnet`.

    Returns:
        Dict of float32 NumPy arrays in PyTorch layout by the original's names.

    Raises:
        ValueError: the model is not a FishNet that the original has: names the layer.
    """
    return {name: _to_torch(variable) for name, variable in torch_variables(model)}


def _torch_shape(variable: keras.Variable) -> tuple[int, ...]:
    """The shape of a weight in the original; a dense kernel is a 1x1 convolution there."""
    if variable.name != "kernel":
        return tuple(variable.shape)
    *window, inputs, outputs = variable.shape
    return (outputs, inputs, *(window or (1, 1)))


def _to_keras(array: np.ndarray, variable: keras.Variable) -> np.ndarray:
    if variable.name == "kernel":
        array = array.transpose(2, 3, 1, 0)
    return array.reshape(variable.shape)


def _to_torch(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    if variable.name == "kernel":
        array = array.reshape((1, 1) * (array.ndim == 2) + array.shape).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(array)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m utils.models.torch_weights",
        description="Converts a PyTorch checkpoint of the authors, or an exported one, to .keras.",
    )
    parser.add_argument("checkpoint", help="a .pth.tar file, of the authors or of utils.export")
    parser.add_argument("preset", help="its network: a FishNet preset, such as fishnet99")
    parser.add_argument("output", help="the .keras file to write")
    arguments = parser.parse_args()
    with one_line_errors(parser):
        convert_torch_checkpoint(arguments.checkpoint, arguments.preset, arguments.output)
    print(f"{arguments.output} written")
