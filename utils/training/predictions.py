"""What a finished run leaves behind beside its numbers: weights and predictions."""

import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from utils.data.manifest import Manifest
from utils.data.pipeline import Batches, evaluation_batches
from utils.data.plan import Source
from utils.data.read_records import encoded_images
from utils.files import DamagedFile, compact_model, load_model, replacing
from utils.training.config import ResolvedConfig, RunConfig

LARGEST_KEPT_WEIGHTS = 4 * 2**20  # bytes
SAMPLES = 48  # images kept of each run, drawn at random, the same ones


def keep_weights(config: RunConfig) -> None:
    """Copies the final weights of a run to where they can be committed, at a third of their size.

    Args:
        config: of the run. Weights that are too large stay in its folder, and it says so; see
            `utils.files.compact_model` for what is stored.
    """
    config = config.resolve()
    run_dir = config.run_dir
    try:
        weights = compact_model(Path(run_dir, "model.keras"))
    except ValueError as error:
        print(f"The weights stay in {run_dir}: {error}")
        return
    if len(weights) > LARGEST_KEPT_WEIGHTS:
        print(f"The weights stay in {run_dir}: {len(weights) / 2**20:.0f} MiB are too large")
        return
    with replacing(Path(config.weights_dir) / f"{config.run_id}.keras") as file:
        file.write(weights)


def kept_model(config: RunConfig) -> keras.Model:
    """Loads the network of a complete run, from its folder or else from the kept weights.

    Args:
        config: its `RunConfig`.

    Returns:
        The `keras.Model`.

    Raises:
        FileNotFoundError: its weights are nowhere; says how to have them made again.
    """
    config = config.resolve()
    kept = Path(config.weights_dir) / f"{config.run_id}.keras"
    own = Path(config.run_dir, "model.keras")
    file = own if own.exists() else kept
    if not file.exists():
        raise FileNotFoundError(
            f"The weights of {config.run_id} are neither {kept} nor {own}. Without "
            f"{config.result_file} it is trained again, from its last checkpoint if one is left."
        )
    return load_model(file)


def keep_predictions(
    config: ResolvedConfig, model: keras.Model, source: Source, result: dict[str, Any]
) -> dict[str, Any]:
    """Writes what the analysis needs of a classifier.

    Args:
        config: of the run.
        model: its trained `keras.Model`.
        source: what it reads.
        result: the run's, which says whether the predictions are to be committed.

    Returns:
        The accuracy of the mean with flipped images, as part of a result.
    """
    probabilities, labels = _predict(model, evaluation_batches(source))
    flipped, _ = _predict(model, evaluation_batches(source, flipped=True))
    save_predictions(
        predictions_path(config.result_file, config.run_dir, result),
        probabilities=probabilities,
        labels=labels,
        manifest=source.manifest,
        images=encoded_images(config.data_dir, source.manifest, config.split),
    )
    correct = (probabilities + flipped).argmax(axis=1) == labels
    return {"top1": float(correct.mean()), "split": config.split}


def softmax(logits: Any) -> np.ndarray:
    """Probabilities, of the same shape."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def _predict(model: keras.Model, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (images, classes) and labels (images,)."""
    found = [(model.predict_on_batch(images), labels) for images, labels in batches]
    logits, labels = map(np.concatenate, zip(*found, strict=True))
    return softmax(logits), labels


def is_kept(result: dict[str, Any]) -> bool:
    """Whether a run's weights and predictions are to be committed beside its result.

    Those of other datasets than Tiny ImageNet stay in its folder.
    """
    return result["kind"] == "train" and result["dataset"]["name"] == "tiny-imagenet"


def predictions_path(
    result_file: str | os.PathLike, run_dir: str | os.PathLike, result: dict[str, Any]
) -> Path:
    """Where a run's predictions are: beside its JSON, or in its folder if they are not kept."""
    folder = Path(result_file).parent if is_kept(result) else Path(run_dir)
    return folder / f"{result['run_id']}.npz"


def save_predictions(
    path: str | os.PathLike,
    *,
    probabilities: np.ndarray,
    labels: np.ndarray,
    manifest: Manifest,
    images: Sequence[bytes],
    samples: int = SAMPLES,
) -> None:
    """Keeps what the analysis needs of a run's predictions, in some hundred kilobytes.

    Args:
        path: the `.npz` file.
        probabilities: (images, classes), of the softmax.
        labels: (images,) from 0.
        manifest: of the dataset.
        images: the JPEG bytes of the same images, in the same order.
        samples: how many of them are kept for the sheet of predictions, drawn at random, the same
            ones of every run; the images of the most confused classes are kept behind these.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    index = np.promote_types(np.uint16, np.min_scalar_type(len(manifest["words"]) - 1))
    predictions: dict[str, Any] = {
        "labels": labels.astype(index),
        "classes": order.astype(index),
        "probabilities": np.take_along_axis(probabilities, order, axis=1).astype(np.float16),
        "words": np.array(manifest["words"]),
    }
    drawn = np.sort(np.random.default_rng(0).permutation(len(labels))[:samples])
    kept = np.array([*drawn, *itertools.chain(*confused_images(predictions))], int)
    encoded = [np.frombuffer(images[i], np.uint8) for i in kept]
    with replacing(path) as file:
        np.savez_compressed(
            file,
            **predictions,
            sample=kept.astype(np.uint32),
            jpeg=np.concatenate(encoded),
            jpeg_sizes=np.array([len(e) for e in encoded], np.uint32),
        )


def load_predictions(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `save_predictions` wrote.

    Args:
        path: the `.npz` file.

    Returns:
        Dict: labels (images,), classes and probabilities (images, 5) of the five most probable,
        words (classes,), sample (samples,) indices, and jpeg, the samples' bytes.

    Raises:
        utils.files.DamagedFile: the file cannot be read.
    """
    with open(path, "rb") as opened:
        try:
            with np.load(opened) as file:
                kept = {name: file[name] for name in file.files}
        except Exception as error:  # whatever the damage makes of a zip file
            remedy = "delete it and the run's JSON, and the command of its run writes both anew"
            raise DamagedFile(path, error, remedy) from error
    ends = np.cumsum(kept.pop("jpeg_sizes"))
    kept["jpeg"] = [part.tobytes() for part in np.split(kept["jpeg"], ends[:-1])]
    return kept


def decode_image(jpeg: bytes) -> np.ndarray:
    """A kept image as uint8 (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def confused_images(predictions: Mapping[str, Any], pairs: int = 6) -> list[list[int]]:
    """Images of the most confused pairs that were taken for the other class.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        pairs: how many pairs, at most.

    Returns:
        Image indices per pair, up to three of each of its classes, most confident prediction first.
    """
    labels, predicted = predictions["labels"], predictions["classes"][:, 0]
    confident = np.argsort(-predictions["probabilities"][:, 0].astype(float), kind="stable")
    found = []
    for a, b in confusions(predictions)[:pairs]:
        ways = [(labels[confident] == x) & (predicted[confident] == y) for x, y in ((a, b), (b, a))]
        found.append([int(i) for way in ways for i in confident[way][:3]])
    return found


def confusions(predictions: Mapping[str, Any]) -> np.ndarray:
    """The pairs of classes that were confused, int (pairs, 2), the most often confused first."""
    pairs = np.stack([predictions["labels"], predictions["classes"][:, 0]], axis=1).astype(int)
    wrong = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    found, counts = np.unique(wrong, axis=0, return_counts=True)
    return found[np.argsort(-counts, kind="stable")]
