"""Layers that compute the same as Keras' own, up to rounding, but faster on a CPU.

They have the same variables under the same names, so weights can be copied either way; a model is
trained with them and saved with Keras' own. `05_performance` measures what each of them gains.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops


class PointwiseConv2D(layers.Conv2D):
    """A 1x1 convolution as the matrix product that it is, with stride 1 and no activation."""

    def call(self, inputs: Any) -> Any:
        """Convolves (batch, height, width, channels)."""
        channels = self.kernel.shape[-2:]
        x = ops.reshape(inputs, (-1, channels[0]))
        x = ops.matmul(x, ops.reshape(self.kernel, channels))
        if self.use_bias:
            x = ops.add(x, self.bias)
        return ops.reshape(x, (-1, *inputs.shape[1:3], channels[1]))


class TilePooling2D(layers.MaxPooling2D):
    """A max-pool whose windows do not overlap, as the maximum over two axes.

    XLA computes the gradient of its own pooling on a single core.
    """

    def call(self, inputs: Any) -> Any:
        """Pools (batch, height, width, channels)."""
        rows, columns = self.pool_size
        _, height, width, channels = inputs.shape
        tiles = (-1, height // rows, rows, width // columns, columns, channels)
        return ops.max(ops.reshape(inputs, tiles), axis=(2, 4))


class BatchNormalization(layers.BatchNormalization):
    """Batch normalization of images in training with fewer passes through memory, for TensorFlow.

    TensorFlow differentiates Keras' ops one by one, each a pass over memory. Where the channels are
    a multiple of 16, oneDNN has a kernel for all of it (`FusedBatchNormV3`), which takes bfloat16
    as it is; for 8 channels it has one that takes float32. Elsewhere the images of a batch are rows
    (height * width * channels); the sums over images are products with a row of ones, which oneDNN
    computes at memory bandwidth, and positions are summed last. In this order the rounding error is
    also smaller than when all three axes are summed at once.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes (batch, height, width, channels); in evaluation mode as Keras does."""
        fast = training and self.trainable and self.compute_dtype in ("float32", "bfloat16")
        if not fast:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        x = inputs if channels % 16 == 0 else ops.cast(inputs, "float32")
        kernel = self._fused if channels % 16 == 0 or channels == 8 else self._normalized
        outputs, mean, variance = kernel(x)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _fused(self, inputs: Any) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        unknown = tf.constant([], tf.float32)  # statistics: it takes those of the batch
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma),
            offset=ops.convert_to_tensor(self.beta),
            mean=unknown,
            variance=unknown,
            epsilon=self.epsilon,
            is_training=True,
        )
        # It gives the sample variance, n - 1 in its denominator; Keras' running average has n.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        return outputs, mean, variance * (count - 1) / count

    def _normalized(self, inputs: Any) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        _, height, width, channels = inputs.shape
        positions = height * width

        @tf.custom_gradient
        def normalize(x: Any, gamma: Any, beta: Any) -> tuple[tuple[Any, Any, Any], Callable]:
            shape = tf.shape(x)
            ones = tf.ones([1, shape[0]])
            count = tf.cast(shape[0] * positions, tf.float32)

            def total(rows: Any) -> Any:
                return tf.reduce_sum(tf.reshape(ones @ rows, [positions, channels]), axis=0)

            def wide(vector: Any) -> Any:
                return tf.tile(vector, [positions])

            x = tf.reshape(x, [-1, positions * channels])
            mean = total(x) / count
            variance = total(tf.math.squared_difference(x, wide(mean))) / count
            inverse = tf.math.rsqrt(variance + self.epsilon)
            scale = gamma * inverse

            def gradient(dy: Any, _mean: Any, _variance: Any) -> tuple[Any, Any, Any]:
                dy = tf.reshape(dy, [-1, positions * channels])
                dbeta = total(dy)
                dgamma = (total(dy * x) - mean * dbeta) * inverse
                slope = scale * inverse * dgamma / count
                dx = dy * wide(scale) - x * wide(slope)
                dx -= wide(scale * dbeta / count - slope * mean)
                return tf.reshape(dx, shape), dgamma, dbeta

            y = x * wide(scale) + wide(beta - mean * scale)
            return (tf.reshape(y, shape), mean, variance), gradient

        return normalize(inputs, *(ops.convert_to_tensor(v) for v in (self.gamma, self.beta)))


class Activation(layers.Activation):
    """An elementwise activation as one pass over memory, and one back, for TensorFlow.

    TensorFlow computes SiLU and its gradient operation by operation, each a pass of its own; here
    XLA compiles either to one, in float32 in between.
    """

    def call(self, inputs: Any) -> Any:
        """Applies the activation to each element."""
        return _compiled(self.activation)(inputs)


@functools.cache
def _compiled(activation: Callable) -> Callable:
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def forward(x: Any) -> Any:
        return tf.cast(activation(tf.cast(x, tf.float32)), x.dtype)

    @tf.function(jit_compile=True)
    def gradient(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return tape.gradient(y, x, dy)

    @tf.custom_gradient
    def compiled(x: Any) -> tuple[Any, Callable]:
        return forward(x), lambda dy: gradient(x, dy)

    return compiled


def accelerate(model: keras.Model) -> keras.Model:
    """A copy of a model with the layers above, where they are faster on the backend.

    Args:
        model: a functional `keras.Model`, channels last, with static image sizes.

    Returns:
        A `keras.Model` with the same weights, not compiled.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"

    def faster(layer: keras.Layer) -> type[keras.Layer]:
        original = type(layer)
        if original is layers.Conv2D and _is_pointwise(layer):
            return PointwiseConv2D
        if original is layers.BatchNormalization and on_tensorflow and _is_of_channels(layer):
            return BatchNormalization
        if original is layers.MaxPooling2D and not on_tensorflow and _is_tiled(layer):
            return TilePooling2D
        if original is layers.Activation and on_tensorflow and _is_smooth(layer):
            return Activation
        return original

    return replace_layers(model, faster)


def _is_of_channels(layer: keras.Layer) -> bool:
    return len(layer.input.shape) == 4 and layer.axis in (-1, 3) and layer.scale and layer.center


def _is_pointwise(layer: keras.Layer) -> bool:
    config = layer.get_config()
    sizes = {*config["kernel_size"], *config["strides"], config["groups"]}
    return sizes == {1} and config["activation"] == "linear"


def _is_smooth(layer: keras.Layer) -> bool:
    return layer.get_config()["activation"] in ("silu", "hard_silu", "gelu", "mish")


def _is_tiled(layer: keras.Layer) -> bool:
    return tuple(layer.pool_size) == tuple(layer.strides) and not any(
        size % pool for size, pool in zip(layer.input.shape[1:3], layer.pool_size, strict=True)
    )


def replace_layers(
    model: keras.Model, replacement: Callable[[keras.Layer], type[keras.Layer]]
) -> keras.Model:
    """A copy of a model with layers of other classes that have the same settings and variables.

    Args:
        model: a functional `keras.Model`.
        replacement: from a layer to the class that replaces its own.

    Returns:
        A `keras.Model` with the same weights, not compiled.
    """
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: replacement(layer).from_config(layer.get_config())
    )
    copy.set_weights(model.get_weights())
    return copy
