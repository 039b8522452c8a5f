"""Builds any network of the project from its preset or with kept weights, and counts its size."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from utils.fields import check_choice, check_field, first_of
from utils.files import load_model
from utils.models.baselines import build_application, build_resnext, build_unet
from utils.models.blocks import Normalization, initializer
from utils.models.fast_layers import replace_layers
from utils.models.fishnet import build_fishnet
from utils.models.heads import HEADS
from utils.models.presets import (
    BaselineConfig,
    FishNetConfig,
    ResNeXtConfig,
    UNetConfig,
    check_segments,
    get_preset,
)

WEIGHTS_DIR = Path(__file__).parents[2] / "report/weights"
RESULTS_DIR = WEIGHTS_DIR.with_name("results")
# Prefixes of the names of the layers of classifiers, boxes and masks.
HEAD_LAYERS = ("logits", "hidden", "box", "decoder")
_BUILDERS: dict[type, Callable[..., keras.Model]] = {
    FishNetConfig: build_fishnet,
    ResNeXtConfig: build_resnext,
    BaselineConfig: build_application,
    UNetConfig: build_unet,
}


def build_model(
    preset: str | FishNetConfig | ResNeXtConfig | BaselineConfig | UNetConfig,
    *,
    image_size: int = 64,
    num_classes: int = 200,
    stem: str = "imagenet",
    normalization: Normalization = None,
    task: str = "classification",
    name: str | None = None,
) -> keras.Model:
    """Builds a FishNet or a baseline.

    Args:
        preset: the name of a preset or a config as in `utils.models.presets`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: see `build_fishnet`; of a baseline, "imagenet" is its own stem, "half" and "full" are
            a 3x3 convolution with stride 2 or 1 and no pool in its place.
        normalization: None, or (mean, std) of three floats each in units of 0..255; see
            `build_fishnet`.
        task: a name in `utils.models.heads.HEADS`.
        name: the model's name; None: the preset's.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes); for localization followed by a box (xmin, ymin, xmax, ymax) in [0, 1];
        for segmentation logits (batch, image_size, image_size, 1 + num_classes).

    Raises:
        ValueError: if the preset or the task is unknown or the options do not fit the preset.
    """
    check_choice("task", task, HEADS)
    image_size = _at_least_1("image_size", image_size)
    num_classes = _at_least_1("num_classes", num_classes)
    config = get_preset(preset) if isinstance(preset, str) else preset
    if type(config) not in _BUILDERS:
        raise ValueError(f"preset must be a preset's name or a config. Received: {preset!r}")
    if task == "segmentation":
        check_segments(config, preset)
    classifier = _BUILDERS[type(config)](
        config,
        image_size=image_size,
        num_classes=num_classes,
        stem=stem,
        normalization=normalization,
        name=name or (preset if isinstance(preset, str) else None),
    )
    return HEADS[task](classifier, num_classes)


def _at_least_1(name: str, value: Any) -> Any:
    return check_field(
        name, value, int, ("a whole number of at least 1", lambda number: number >= 1)
    )


def load_weights(
    name: str | Path,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    weights_dir: str | Path = WEIGHTS_DIR,
) -> keras.Model:
    """Loads a trained network by the name of its run, for images of any size and any classes.

    Args:
        name: of a run whose weights are kept, or the path of a `.keras` file or of a run's folder.
        image_size: height and width of the input, in pixels; None: as trained. At another size the
            layer for a box, whose input grows with it, is a new one, to be trained.
        num_classes: number of classes; with another one than trained for, the last layer is a new
            one, to be trained. None: as trained.
        weights_dir: folder of the kept weights.

    Returns:
        A `keras.Model` from pixels of 0 to 255 (batch, image_size, image_size, 3) to logits
        (batch, num_classes); of a network for boxes or masks, to what `build_model` says.

    Raises:
        ValueError: there is no such run (lists those that there are), or the size or the number of
            classes does not fit.
    """
    if Path(name).is_dir():
        path = Path(name, "model.keras")
    else:
        path = Path(name) if str(name).endswith(".keras") else Path(weights_dir, f"{name}.keras")
    if not path.is_file():
        valid = sorted(file.stem for file in Path(weights_dir).glob("*.keras"))
        raise ValueError(
            f"name must be a run with kept weights: {', '.join(valid) or 'none'}; or the path of a "
            f".keras file or of a complete run's folder. Received: {str(name)!r}, without {path}"
        )
    trained = load_model(path, compile=False)
    size, classes = trained.input_shape[1], _classes(trained)
    if image_size is None:
        image_size = size
    if num_classes is None:
        num_classes = classes
    wanted = _at_least_1("image_size", image_size), _at_least_1("num_classes", num_classes)
    if wanted == (size, classes):
        return trained
    model = _rebuilt(trained, *wanted)
    for new, old in zip(model.layers, trained.layers, strict=True):
        shapes = [[w.shape for w in layer.weights] for layer in (new, old)]
        if shapes[0] == shapes[1]:  # it differs in heads only
            new.set_weights(old.get_weights())
    return model


def _classes(model: keras.Model) -> int:
    """The number of classes of a network of any task."""
    names = {layer.name for layer in model.layers}
    if "decoder_logits" in names:
        return model.output_shape[-1] - 1  # without background
    return model.get_layer("logits").units if "logits" in names else model.output_shape[-1]


def _rebuilt(trained: keras.Model, image_size: int, num_classes: int) -> keras.Model:
    """The same network for images of another size or other classes, with new weights."""
    size = trained.input_shape[1]
    if any(isinstance(x, (layers.UpSampling2D, layers.Reshape)) for x in trained.layers):
        joined = (layers.Add, layers.Concatenate, layers.MaxPooling2D)
        features = [x.output.shape for x in trained.layers if isinstance(x, joined)]
        stride = size // min(shape[1] for shape in features if len(shape) == 4)
        if image_size % stride:
            raise ValueError(
                f"image_size must be a multiple of the total stride of {trained.name}, {stride}. "
                f"Received: {image_size}"
            )

    def rebuilt(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, layers.Reshape):  # of channel reduction, which knows its features
            rows, columns, *groups = config["target_shape"]
            sides = (side * image_size // size for side in (rows, columns))
            config["target_shape"] = (*sides, *groups)
        elif layer.name == "logits":
            config["units"] = num_classes
            config["kernel_initializer"] = initializer(1, num_classes)
        elif layer.name == "decoder_logits":
            config["filters"] = num_classes + 1
            config["kernel_initializer"] = initializer(1, num_classes + 1)
        elif layer.name == "box_rescaling":  # by the root of the number of features
            config["scale"] = layer.scale * size / image_size
        return type(layer).from_config(config)

    inputs = keras.Input((image_size, image_size, 3), name="image")
    inputs = keras.tree.map_structure(lambda _: inputs, trained.input)  # a list in older ResNets
    return keras.models.clone_model(trained, input_tensors=inputs, clone_function=rebuilt)


class Resized(keras.Model):
    """A network that can be trained with smaller images than it is evaluated with.

    It is given images of one size always and resizes them in training, by area: the pixel of a
    smaller image is the mean of what it covers. It shares its layers with `network`.

    Args:
        network: a functional `keras.Model` from (batch, size, size, 3); no layer but those of
            channel reduction may depend on the size.
    """

    def __init__(self, network: keras.Model) -> None:
        network = replace_layers(
            network, lambda x: Regroup if type(x) is layers.Reshape else type(x)
        )
        super().__init__(network.input, network.output, name=network.name)
        self.training_size = self.input_shape[1]

    def train_at(self, size: int) -> None:
        """Sets the size of the images in training, in pixels.

        Raises:
            ValueError: larger than the images are.
        """
        most = self.input_shape[1]
        if size > most:
            raise ValueError(f"image_sizes must be at most {most}, as the images. Received: {size}")
        if size != self.training_size:
            self.training_size, self.train_function = size, None  # which is traced for a size

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """From images to logits."""
        if training and self.training_size != self.input_shape[1]:
            inputs = resize(inputs, self.training_size)
        return super().call(inputs, training=training, mask=mask)


class Regroup(layers.Reshape):
    """Reshapes the channels of images of any size, where `Reshape` knows theirs beforehand."""

    def call(self, inputs: Any) -> Any:
        """Reshapes (batch, height, width, channels)."""
        return ops.reshape(inputs, (-1, *inputs.shape[1:3], *self.target_shape[2:]))


def resize(images: Any, size: int) -> Any:
    """Resizes square images by area.

    Args:
        images: (batch, pixels, pixels, 3), any dtype.
        size: height and width of the result, at most that of the images.

    Returns:
        float32 (batch, size, size, 3).
    """
    pixels = images.shape[1]
    edges = np.arange(size + 1)[:, None] * pixels / size
    place = np.arange(pixels)
    covered = np.minimum(edges[1:], place + 1) - np.maximum(edges[:-1], place)
    rows = (covered.clip(0) * size / pixels).astype("float32")  # (size, pixels)
    columns = np.kron(rows.T, np.eye(3, dtype="float32"))  # of pixels with their three channels
    x = ops.reshape(ops.cast(images, "float32"), (-1, pixels, pixels * 3))
    return ops.reshape(ops.matmul(rows, ops.matmul(x, columns)), (-1, size, size, 3))


def start_from(model: keras.Model, path: str | Path) -> list[str]:
    """Initializes a model with the weights of a saved one.

    A head is initialized too if the saved model has one of the same shape.

    Args:
        model: a model of `build_model`; changed in place, or not at all.
        path: a `.keras` file of the same network, activation and strides included.

    Returns:
        Names of the layers that keep their own weights: only layers of heads.

    Raises:
        ValueError: the file cannot be read, or is of another network; lists what differs.
    """
    layers_there = _layers_of(path)
    saved = {name: layer.get_weights() for name, layer in layers_there.items() if layer.weights}
    wanted = {layer.name: layer for layer in model.layers if layer.weights}
    kept, problems = [], []
    for layer in model.layers:  # what has no weights decides as well what weights mean
        there, here = (_working(x) for x in (layers_there.get(layer.name, layer), layer))
        if there != here and not layer.name.startswith(HEAD_LAYERS):
            problems.append(f"settings: {layer.name} must be {here}. Received: {there}")
    for name, layer in wanted.items():
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = [weight.shape for weight in saved[name]] if name in saved else None
        if shapes == expected:
            continue
        if name.startswith(HEAD_LAYERS):
            kept.append(name)
        elif shapes is None:
            problems.append(f"missing: {name}")
        else:
            problems.append(f"shapes: {name} must have {expected}. Received: {shapes}")
    heads = (*HEAD_LAYERS, "score")  # a FishNet's score layers belong to its classifier
    unexpected = [name for name in saved if name not in wanted and not name.startswith(heads)]
    problems += [f"unexpected: {name}" for name in unexpected]
    if problems:
        raise ValueError(
            f"initial_weights: {path} is of another network; choose a file of the same preset, "
            "stem, activation and down-sampling. "
            f"Mismatches ({len(problems)}):\n" + first_of(sorted(problems), between="\n")
        )
    for name, layer in wanted.items():
        if name not in kept:
            layer.set_weights(saved[name])
    return kept


def _working(layer: keras.layers.Layer) -> str:
    """How a layer works, as far as its weights do not say it."""
    config = layer.get_config()
    settings = {name: config.get(name) for name in ("activation", "strides", "pool_size", "groups")}
    given = ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
    return f"{type(layer).__name__}({given})"


def _layers_of(path: str | Path) -> dict[str, keras.layers.Layer]:
    """Layers of a saved model by name, or a ValueError that says why there are none."""
    if not Path(path).is_file():
        raise ValueError(f"initial_weights must be a .keras file. Received: {path}, no such file")
    try:
        saved = load_model(path, compile=False)
    except Exception as error:  # of whatever kind Keras and the formats below it raise
        raise ValueError(f"initial_weights: {path} cannot be read as a model. {error}") from error
    return {layer.name: layer for layer in saved.layers}


def count_parameters(model: keras.Model) -> int:
    """Returns the number of trainable parameters of a model."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_macs(model: keras.Model) -> int:
    """Counts the multiply-accumulates of a built model at inference.

    Convolutions and dense layers count one for each weight and position, batch normalization (a
    scale and an offset then) one for each element; biases, activations and pooling are not counted.

    The published 4.31, 6.45 and 10.58 G of FishNet-99, 150 and 201 come from the authors'
    `utils/profile.py`, which adds ReLU and pooling, the latter several times over (all stages share
    one pooling module, with one counter each); the count here is 0.4 to 0.8 % lower.

    Args:
        model: a channels-last `keras.Model` with static shapes.

    Returns:
        Multiply-accumulates per image.
    """
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            macs += count_macs(layer)
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            positions = math.prod(layer.output.shape[1:-1])
            macs += positions * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.BatchNormalization):
            macs += math.prod(layer.output.shape[1:])
    return macs
