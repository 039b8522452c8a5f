"""Random crops and horizontal flips of a batch, and what they do to boxes and masks."""

import tensorflow as tf

CROP_PADDING = 8  # pixels reflected at each border before the random crop


def draw_crops_and_flips(count: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws how each image of a batch is cropped and whether it is flipped.

    Args:
        count: Images.
        seed: int64 (2,), all that the result depends on.

    Returns:
        (offsets, flipped): int32 (2, count), rows and columns from the image's corner to that of
        its crop, at most `CROP_PADDING` either way; and bool (count,).
    """
    draws = tf.random.stateless_uniform(
        [2, count, 1], seed, maxval=2 * CROP_PADDING + 1, dtype=tf.int32, alg="philox"
    )
    flipped = tf.random.stateless_uniform([count, 1], seed + 1, alg="philox") < 0.5
    return draws[..., 0] - CROP_PADDING, flipped[:, 0]


def crop_and_flip(images: tf.Tensor, offsets: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
    """Crops images that are reflected at their borders, to their own size, and flips some.

    Args:
        images: (batch, height, width, channels), or masks (batch, height, width), any dtype.
        offsets: See `draw_crops_and_flips`.
        flipped: Likewise.

    Returns:
        A tensor like `images`.

    Source:
        He et al. (2016), section 4.2, with reflection in place of zeros.
    """
    height, width = images.shape[1:3]
    rows = _reflect(offsets[0][:, None] + tf.range(height), height)
    columns = _reflect(offsets[1][:, None] + tf.range(width), width)
    columns = tf.where(flipped[:, None], columns[:, ::-1], columns)
    return tf.gather(tf.gather(images, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def crop_and_flip_boxes(
    boxes: tf.Tensor, offsets: tf.Tensor, flipped: tf.Tensor, image_size: int
) -> tf.Tensor:
    """Crops and flips boxes with their images; what is outside of the crop is cut off.

    Args:
        boxes: float32 (batch, 4): xmin, ymin, xmax, ymax in [0, 1].
        offsets: See `draw_crops_and_flips`.
        flipped: Likewise.
        image_size: Height and width of the images, in pixels.

    Returns:
        A tensor like `boxes`.
    """
    rows, columns = tf.unstack(tf.cast(offsets, tf.float32) / image_size)
    cropped = tf.clip_by_value(boxes - tf.stack([columns, rows, columns, rows], axis=1), 0.0, 1.0)
    xmin, ymin, xmax, ymax = tf.unstack(cropped, axis=1)
    mirrored = tf.stack([1 - xmax, ymin, 1 - xmin, ymax], axis=1)
    return tf.where(flipped[:, None], mirrored, cropped)


def _reflect(index: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects positions outside [0, size) at the border, as `numpy.pad(mode="reflect")`."""
    index = tf.abs(index)
    return tf.where(index >= size, 2 * (size - 1) - index, index)
