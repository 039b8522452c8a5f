"""U-Net, to compare pixel-level results with, as a functional Keras model.

Source: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015 (arXiv 1505.04597), figure 1; with batch normalization, and padding so that the output
is as large as the input.
"""

import keras
from keras import layers

from utils.models.blocks import bn_act, classifier, conv, get_stem, normalize


def build_unet(
    config, *, image_size=64, num_classes=200, stem="full", normalization=None, name=None
):
    """Builds a U-Net.

    Args:
        config: a `UNetConfig`.
        image_size: height and width of the input, in pixels; a multiple of 2 ** (depth - 1).
        num_classes: number of classes.
        stem: it has none, whatever is given; all of it is at full resolution.
        normalization: None, or (mean, std); see `build_fishnet`.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes) of the average over its last features, the layer `unet_features`.

    Raises:
        ValueError: if the stem is unknown or the image size does not fit.
    """
    get_stem(stem)
    stride = 2 ** (config.depth - 1)
    if image_size < 1 or image_size % stride:
        raise ValueError(
            f"`image_size` must be a multiple of {stride}. Received: image_size={image_size}"
        )
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x, skipped = normalize(inputs, normalization), []
    for level in range(config.depth):
        if level:
            x = layers.MaxPooling2D(2, name=f"down_{level}_pool")(x)
        x = _double(x, config.width * 2**level, f"down_{level}")
        skipped.append(x)
    for level in reversed(range(config.depth - 1)):
        x = layers.UpSampling2D(2, name=f"up_{level}_upsample")(x)
        x = conv(x, config.width * 2**level, 3, f"up_{level}_conv0", use_bias=True)
        x = layers.Concatenate(name=f"up_{level}_concatenate")([x, skipped[level]])
        x = _double(x, config.width * 2**level, f"up_{level}")
    x = layers.Identity(name="unet_features")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, classifier(x, num_classes), name=name)


def _double(x, width, name):
    """Two 3x3 convolutions, each with batch normalization and ReLU."""
    for i in (1, 2):
        x = bn_act(conv(x, width, 3, f"{name}_conv{i}"), "relu", name, i)
    return x
