"""What a run writes for TensorBoard."""

from pathlib import Path

import keras

from utils.training.config import ResolvedConfig


def tensorboard(config: ResolvedConfig) -> keras.callbacks.Callback:
    """Writes the parameters of a run; its scalars are written by what this returns.

    Args:
        config: of the run.

    Returns:
        Keras' callback.
    """
    folder = Path(config.run_dir, "tensorboard")
    import tensorflow as tf  # as Keras' callback does, on any backend
    from tensorboard.plugins.hparams import api

    identity = config.identity()
    given = {name: value for name, value in identity.items() if value is not None}
    values = identity["recipe_fields"] | given  # as it takes effect
    kinds = (bool, int, float, str)
    with tf.summary.create_file_writer(str(folder)).as_default():
        api.hparams({k: v for k, v in values.items() if isinstance(v, kinds)}, config.run_id)
    return keras.callbacks.TensorBoard(folder)
