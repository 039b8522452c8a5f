"""ResNeXt, which `keras.applications` does not have, as a functional Keras model.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017
(arXiv 1611.05431), section 3 and table 1; the stride is in the 3x3 convolution, as there.
"""

import keras
from keras import layers

from utils.models.blocks import bn, bn_act, classifier, conv, get_stem, max_pool, normalize


def build_resnext(
    config, *, image_size=64, num_classes=200, stem="imagenet", normalization=None, name=None
):
    """Builds a ResNeXt classifier.

    Args:
        config: a `ResNeXtConfig`.
        image_size: height and width of the input, in pixels.
        num_classes: number of classes.
        stem: "imagenet" (7x7 convolution with stride 2 and max-pool), or for small images "half"
            (3x3 with stride 2) or "full" (3x3 with stride 1), both without a pool.
        normalization: None, or (mean, std); see `build_fishnet`.
        name: the model's name.

    Returns:
        A `keras.Model` from (batch, image_size, image_size, 3) to float32 logits
        (batch, num_classes).
    """
    stride, pool = get_stem(stem)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = normalize(inputs, normalization)
    x = conv(x, 64, 7 if pool else 3, "stem_conv", stride=stride)
    x = bn_act(x, "relu", "stem")
    if pool:
        x = max_pool(x, "stem_pool")
    for i, depth in enumerate(config.depths):
        for block in range(depth):
            x = _bottleneck(
                x,
                config.groups * config.group_width * 2**i,
                f"stage{i + 1}_block{block + 1}",
                stride=2 if i and not block else 1,
                groups=config.groups,
                project=not block,
            )
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, classifier(x, num_classes, dropout=config.dropout), name=name)


def _bottleneck(x, width, name, *, stride, groups, project):
    """1x1, grouped 3x3 and 1x1 convolution to twice the width, beside the shortcut."""
    shortcut = x
    if project:
        shortcut = conv(x, 2 * width, 1, f"{name}_shortcut_conv", stride=stride)
        shortcut = bn(shortcut, f"{name}_shortcut_bn")
    x = bn_act(conv(x, width, 1, f"{name}_conv1"), "relu", name, 1)
    x = conv(x, width, 3, f"{name}_conv2", stride=stride, groups=groups)
    x = bn_act(x, "relu", name, 2)
    x = bn(conv(x, 2 * width, 1, f"{name}_conv3"), f"{name}_bn3")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("relu", name=f"{name}_act3")(x)
