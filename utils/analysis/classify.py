"""Classifies image files: one, a folder, or a labeled folder whose accuracy is measured."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from PIL import Image

from utils.data.archives import is_system_file
from utils.data.pictures import ImageError, central_square, read_image
from utils.fields import first_of
from utils.files import load_model
from utils.models.build import RESULTS_DIR, WEIGHTS_DIR
from utils.training.predictions import load_predictions, softmax

SUFFIXES = {".jpeg", ".jpg", ".png"}  # of the images of a labeled folder


def kept_classifiers(
    *, results_dir: str | Path = RESULTS_DIR, weights_dir: str | Path = WEIGHTS_DIR
) -> list[str]:
    """Names of the classification runs whose weights were kept, sorted."""
    weights = {path.stem for path in Path(weights_dir).glob("*.keras")}
    predictions = {path.stem for path in Path(results_dir).glob("*.npz")}
    return sorted(weights & predictions)  # other tasks keep no predictions


def load_classifier(
    run_id: str,
    *,
    results_dir: str | Path = RESULTS_DIR,
    weights_dir: str | Path = WEIGHTS_DIR,
) -> tuple[keras.Model, list[str]]:
    """Loads a kept classifier with the words of its classes.

    Args:
        run_id: name of a classification run whose weights were kept, or the path of a run's folder,
            such as that of a run on pictures of your own.
        results_dir: folder with `<run_id>.npz`.
        weights_dir: folder with `<run_id>.keras`.

    Returns:
        (model, words): a `keras.Model` from (n, size, size, 3) of 0..255 to logits, and the words
        of each class.

    Raises:
        ValueError: there is no such classifier; lists those that there are, or says what a run's
            folder lacks.
    """
    if Path(run_id).is_dir():
        return _load_own(Path(run_id), Path(results_dir))
    valid = kept_classifiers(results_dir=results_dir, weights_dir=weights_dir)
    if run_id not in valid:
        raise ValueError(
            "run_id must be a classification run with kept weights: "
            f"{', '.join(valid) or 'none'}; or the path of a run's folder. Received: {run_id!r}"
        )
    weights = Path(weights_dir, f"{run_id}.keras")
    return load_model(weights), _words(Path(results_dir, f"{run_id}.npz"))


def _load_own(folder: Path, results_dir: Path) -> tuple[keras.Model, list[str]]:
    """The classifier of a run's folder; one that has its predictions may have been renamed."""
    weights = folder / "model.keras"
    own = sorted(folder.glob("*.npz")) or sorted(results_dir.glob(f"{folder.resolve().name}.npz"))
    if not (weights.exists() and own):
        missing = "predictions (.npz)" if weights.exists() else weights.name
        raise ValueError(
            f"{folder} has no {missing}. If its run is not complete, repeat its command, which "
            "continues it; a run whose weights are kept elsewhere is loaded by its name alone."
        )
    return load_model(weights), _words(own[0])


def _words(predictions: Path) -> list[str]:
    return load_predictions(predictions)["words"].tolist()


def resized_center_crop(image: Image.Image, resize: int, size: int) -> np.ndarray:
    """Preprocesses an image as ImageNet networks are evaluated.

    Args:
        image: of mode RGB.
        resize: its shorter side after scaling, in pixels; bilinear, as torchvision's `Resize`.
        size: height and width of the crop at its center, in pixels.

    Returns:
        uint8 (size, size, 3); mean and standard deviation are left to the network.
    """
    width, height = (resize * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in (width, height))
    return np.asarray(image.crop((left, top, left + size, top + size)))


def classify(
    model: keras.Model, words: Sequence[str], path: str | Path, *, top: int = 5
) -> pd.DataFrame:
    """Predicts the most probable classes of an image, or of each file in a folder.

    Args:
        model: as `load_classifier` returns it.
        words: likewise.
        path: an image file, or a folder (without its subfolders and hidden files).
        top: how many classes.

    Returns:
        `pandas.DataFrame`, a row for each file and rank: file, rank, words, probability. Files of
        a folder that cannot be classified come last, each in one row of rank 0 whose words are the
        reason.

    Raises:
        ImageError: the file cannot be classified, or the folder is empty.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not is_system_file(p.name))
    if not files:
        raise ImageError(f"{path} holds no files.")
    size = model.input_shape[1]
    images, failed = {}, []
    for file in files:
        try:
            images[file.name] = central_square(read_image(file, draft=2 * size), size)
        except ImageError as error:
            if file == path:
                raise
            failed.append((file.name, 0, str(error), np.nan))
    rows: list[tuple[str, int, str, float]] = []
    if images:
        logits = model.predict(np.stack(list(images.values())), verbose=0)
        probabilities = softmax(logits)
        for name, row in zip(images, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            rows += [(name, rank, words[i], float(row[i])) for rank, i in enumerate(best, start=1)]
    return pd.DataFrame(rows + failed, columns=["file", "rank", "words", "probability"])


def evaluate_folder(
    model: keras.Model,
    folder: str | Path,
    *,
    pattern: str = "**/*",
    batch_size: int = 32,
    resize: int | None = None,
) -> dict[str, Any]:
    """Accuracy over a folder with one subfolder per class, as ImageNet's validation set has it.

    Args:
        model: from (n, size, size, 3) of 0..255 to logits (n, classes).
        folder: its subfolders, sorted by name, are the classes.
        pattern: of the images within a subfolder; other files are ignored.
        batch_size: images per batch.
        resize: see `resized_center_crop`; the crop is as large as the model's input. None: that
            size over 0.875, as for ImageNet, 256 pixels for a crop of 224.

    Returns:
        Dict: top1 and top5, fractions, and images, their number.

    Raises:
        ValueError: the subfolders are not as many as the model's classes, or hold no images;
            `resize` is smaller than the model's input.
        ImageError: an image cannot be read.
    """
    folders = sorted(p for p in Path(folder).iterdir() if p.is_dir() and not is_system_file(p.name))
    classes, size = model.output_shape[-1], model.input_shape[1]
    resize = round(size / 0.875) if resize is None else resize
    if resize < size:
        raise ValueError(f"resize must be at least the model's {size} pixels. Received: {resize}")
    if len(folders) != classes:
        raise ValueError(
            f"{folder} must have one subfolder for each of the model's {classes} classes. "
            f"Received: {len(folders)}"
        )
    found = [
        sorted(
            path
            for path in subfolder.glob(pattern)
            if path.suffix.lower() in SUFFIXES and not is_system_file(path.name)
        )
        for subfolder in folders
    ]
    empty = [f.name for f, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise ValueError(f"{folder} has no images in {first_of(empty, most=5)}.")
    labels = np.repeat(np.arange(classes), [len(files) for files in found])
    files = [path for files in found for path in files]
    logits = []

    def preprocess(path: Path) -> np.ndarray:
        return resized_center_crop(read_image(path), resize, size)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            images = np.stack([*pool.map(preprocess, files[start : start + batch_size])])
            logits.append(model.predict_on_batch(images))
    best = np.argsort(-np.concatenate(logits), axis=1, kind="stable")[:, :5] == labels[:, None]
    return {
        "top1": float(best[:, 0].mean()),
        "top5": float(best.any(axis=1).mean()),
        "images": len(files),
    }
