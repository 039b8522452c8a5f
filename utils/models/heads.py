"""Heads: what turns a classifier into the network of a task."""

from collections.abc import Mapping

import keras
from keras import KerasTensor, layers, ops

from utils.models.blocks import bn_act, conv
from utils.models.fishnet import PARTS, pyramid_outputs

DECODER_WIDTH = 32  # channels


def _classifier_itself(classifier: keras.Model, num_classes: int) -> keras.Model:
    return classifier


def _with_box(classifier: keras.Model, num_classes: int) -> keras.Model:
    """Adds a box, from the features before the last average, which still have positions."""
    pooling = [x for x in classifier.layers if isinstance(x, layers.GlobalAveragePooling2D)][-1]
    x = layers.Flatten(name="box_features")(pooling.input)
    # Thousands of features: with a rate of 0.5 the first steps would drive the sigmoid to its ends.
    x = layers.Rescaling(x.shape[-1] ** -0.5, name="box_rescaling")(x)
    x = layers.Dense(4, activation="sigmoid", dtype="float32", name="box")(x)
    center, size = ops.split(x, 2, axis=-1)
    outputs = [classifier.output, center - size / 2, center + size / 2]
    outputs = layers.Concatenate(dtype="float32", name="logits_and_box")(outputs)
    return keras.Model(classifier.input, outputs, name=classifier.name)


def _with_decoder(classifier: keras.Model, num_classes: int) -> keras.Model:
    """Replaces the classifier by logits of background and classes for each pixel."""
    names = {layer.name for layer in classifier.layers}
    if "unet_features" in names:  # a U-Net has its decoder already
        x = classifier.get_layer("unet_features").output
    else:
        x = _decoded(pyramid_outputs(classifier, "head" if PARTS["head"][-1] in names else "tail"))
    x = conv(x, num_classes + 1, 1, "decoder_logits", use_bias=True)
    stride = classifier.input.shape[1] // x.shape[1]
    if stride > 1:
        x = layers.UpSampling2D(stride, interpolation="bilinear", name="decoder_upsample")(x)
    x = layers.Activation("linear", dtype="float32", name="decoder_pixels")(x)
    return keras.Model(classifier.input, x, name=classifier.name)


def _decoded(levels: Mapping[str, KerasTensor]) -> KerasTensor:
    """Sums a feature pyramid at its finest resolution."""
    parts = []
    for i, (level, x) in enumerate(levels.items()):
        name = f"decoder_{level.lower()}"
        x = conv(bn_act(x, "relu", name), DECODER_WIDTH, 1, f"{name}_conv")
        if i > 0:
            x = layers.UpSampling2D(2**i, interpolation="bilinear", name=f"{name}_upsample")(x)
        parts.append(x)
    x = bn_act(layers.Add(name="decoder_add")(parts), "relu", "decoder", 1)
    return bn_act(conv(x, 2 * DECODER_WIDTH, 3, "decoder_conv1"), "relu", "decoder", 2)


# task: from a classifier and its number of classes to the network of the task
HEADS = {
    "classification": _classifier_itself,
    "localization": _with_box,
    "segmentation": _with_decoder,
}
