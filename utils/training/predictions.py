"""What a finished run leaves behind beside its numbers: weights and predictions."""

from pathlib import Path

import keras
import numpy as np

from utils.data import pipeline
from utils.training import results
from utils.training.checkpoints import replacing

LARGEST_KEPT_WEIGHTS = 16 * 2**20  # bytes


def keep_weights(config):
    """Copies the final weights of a run to where they can be committed.

    Args:
        config: its `RunConfig`. Weights that are too large stay in its folder, and it says so.
    """
    weights = Path(config.run_dir, "model.keras").read_bytes()
    if len(weights) > LARGEST_KEPT_WEIGHTS:
        print(f"The weights stay in {config.run_dir}: {len(weights) / 2**20:.0f} MiB are too large")
        return
    with replacing(Path(config.weights_dir) / f"{config.run_id}.keras") as file:
        file.write(weights)


def kept_model(config):
    """Loads the network of a complete run; its weights are to be committed from then on.

    Args:
        config: its `RunConfig`.

    Returns:
        The `keras.Model`.

    Raises:
        FileNotFoundError: its weights are nowhere; says how to have them made again.
    """
    kept = Path(config.weights_dir) / f"{config.run_id}.keras"
    own = Path(config.run_dir, "model.keras")
    if not kept.exists() and own.exists():
        keep_weights(config)
    file = kept if kept.exists() else own  # where too large ones stay
    if not file.exists():
        raise FileNotFoundError(
            f"The weights of {config.run_id} are neither {kept} nor {own}. Without "
            f"{config.result_file} it is trained again."
        )
    return keras.models.load_model(file)


def keep_predictions(config, model, batches, manifest, result):
    """Writes what the analysis needs of a classifier.

    Args:
        config: the `RunConfig` of the run.
        model: its trained `keras.Model`.
        batches: the `tf.data.Dataset` that it is evaluated on.
        manifest: of the dataset.
        result: the run's, which says whether the predictions are to be committed.

    Returns:
        The accuracy with mirror images, as part of a result.
    """
    images = pipeline.evaluation_size(manifest, config.split)  # without blank ones
    probabilities, flipped = (_predict(model, b)[:images] for b in (batches, batches.map(_mirror)))
    labels = np.concatenate([batch[1].numpy() for batch in batches])[:images]
    results.save_predictions(
        results.predictions_path(config.result_file, config.run_dir, result),
        probabilities=probabilities,
        labels=labels,
        manifest=manifest,
        images=pipeline.encoded_images(config.data_dir, manifest, split=config.split),
    )
    right = (probabilities + flipped).argmax(axis=1) == labels
    return {"top1": float(right.mean()), "split": config.split}


def _predict(model, batches):
    """Probabilities (images, classes); labels are passed over."""
    logits = model.predict(batches, verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def _mirror(images, *rest):
    return images[:, :, ::-1], *rest
