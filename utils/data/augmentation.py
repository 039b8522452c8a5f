"""Random crops and mirror images, and what they do to boxes and masks."""

import tensorflow as tf

CROP_PADDING = 8  # pixels reflected at each border before the random crop


def draw_moves(count, seed):
    """Draws how each image of a batch is moved.

    Args:
        count: images.
        seed: int64 (2,), all that the result depends on.

    Returns:
        (shifts, mirrored): int32 (2, count), the rows and columns by which what is seen moves up
        and to the left, at most `CROP_PADDING`; and bool (count,), whether it is mirrored then.
    """
    draws = tf.random.stateless_uniform(
        [2, count, 1], seed, maxval=2 * CROP_PADDING + 1, dtype=tf.int32, alg="philox"
    )
    mirrored = tf.random.stateless_uniform([count, 1], seed + 1, alg="philox") < 0.5
    return draws[..., 0] - CROP_PADDING, mirrored[:, 0]


def move_images(images, shifts, mirrored):
    """Crops a window that sticks out of the image, where the image is reflected, and mirrors some.

    Args:
        images: (batch, height, width, channels), or masks (batch, height, width), any dtype.
        shifts: see `draw_moves`.
        mirrored: likewise.

    Returns:
        A tensor like `images`.

    Source:
        He et al. (2016), section 4.2, with reflection in place of zeros.
    """
    height, width = images.shape[1:3]
    rows = _reflect(shifts[0][:, None] + tf.range(height), height)
    columns = _reflect(shifts[1][:, None] + tf.range(width), width)
    columns = tf.where(mirrored[:, None], columns[:, ::-1], columns)
    return tf.gather(tf.gather(images, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def move_boxes(boxes, shifts, mirrored, image_size):
    """Moves boxes with their images; what leaves the image is cut off.

    Args:
        boxes: float32 (batch, 4): xmin, ymin, xmax, ymax in [0, 1].
        shifts: see `draw_moves`.
        mirrored: likewise.
        image_size: height and width of the images, in pixels.

    Returns:
        A tensor like `boxes`.
    """
    rows, columns = tf.unstack(tf.cast(shifts, tf.float32) / image_size)
    moved = tf.clip_by_value(boxes - tf.stack([columns, rows, columns, rows], axis=1), 0.0, 1.0)
    xmin, ymin, xmax, ymax = tf.unstack(moved, axis=1)
    flipped = tf.stack([1 - xmax, ymin, 1 - xmin, ymax], axis=1)
    return tf.where(mirrored[:, None], flipped, moved)


def _reflect(index, size):
    """Mirrors positions outside [0, size) at the border pixel, as `numpy.pad(mode="reflect")`."""
    index = tf.abs(index)
    return tf.where(index >= size, 2 * (size - 1) - index, index)
