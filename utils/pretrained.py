"""Weights of the authors' PyTorch code: how its parameters are named and laid out here.

Layouts: a PyTorch convolution kernel is (out, in, height, width), ours (height, width, in, out).
The original classifies with a 1x1 convolution, here a dense layer: a kernel (in, out).

Source: state dict of `models/fishnet.py` of github.com/kevin-ssy/FishNet at commit b968f02.
"""

import re

import numpy as np

from utils.fishnet import STAGES

# Layers that are no part of a bottleneck.
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

_TORCH_NAMES = {  # of a variable in its layer
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def torch_prefix(layer_name):
    """Translates the name of a FishNet layer that has weights.

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


def torch_variables(model):
    """Yields each weight of a FishNet with the original's name for it.

    Args:
        model: a model of `build_fishnet`.

    Yields:
        (name of the parameter in the original, Keras variable), in the order of the layers.
    """
    for layer in model.layers:
        for variable in layer.weights:
            yield f"{torch_prefix(layer.name)}.{_TORCH_NAMES[variable.name]}", variable


def load_torch_state_dict(model, state_dict):
    """Sets all weights of a FishNet from parameters of the original code.

    Args:
        model: a model of `build_fishnet`; changed in place, or not at all.
        state_dict: NumPy arrays in PyTorch layout by the original's names;
            `num_batches_tracked` is ignored.

    Raises:
        ValueError: if keys are missing, unexpected or of another shape; lists every one.
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


def _torch_shape(variable):
    """The shape of a weight in the original; a dense kernel is a 1x1 convolution there."""
    if variable.name != "kernel":
        return tuple(variable.shape)
    *window, inputs, outputs = variable.shape
    return (outputs, inputs, *(window or (1, 1)))


def _to_keras(array, variable):
    if variable.name == "kernel":
        array = array.transpose(2, 3, 1, 0)
    return array.reshape(variable.shape)
