"""What a trained network sees in any image file, or in a folder of them."""

import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.training.predictions import load_predictions


class ImageError(Exception):
    """A file that cannot be classified; the message names it and says why."""


def load_classifier(run_id, *, results_dir="report/results", weights_dir="report/weights"):
    """A kept network with the words of its classes.

    Args:
        run_id: name of a run whose weights were kept.
        results_dir: folder with `<run_id>.npz`.
        weights_dir: folder with `<run_id>.keras`.

    Returns:
        (model, words): a `keras.Model` from (n, 64, 64, 3) of 0..255 to logits, and the words of
        each class.

    Raises:
        ValueError: there are no such weights; lists the runs that have some.
    """
    path = Path(weights_dir) / f"{run_id}.keras"
    if not path.exists():
        kept = ", ".join(sorted(p.stem for p in Path(weights_dir).glob("*.keras"))) or "none"
        raise ValueError(f"run_id must be a run with kept weights: {kept}. Received: {run_id!r}")
    words = load_predictions(Path(results_dir) / f"{run_id}.npz")["words"]
    return keras.models.load_model(path), list(words)


def read_image(path, size=64):
    """Reads any image that Pillow knows: its central square, scaled.

    Of an animation the first frame is taken; what is transparent becomes white.

    Args:
        path: the file.
        size: height and width of the result, in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: no such file, not an image, cut off, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (2 * size, 2 * size))  # of a JPEG, no more than is needed
                image = ImageOps.exif_transpose(image).convert("RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is too large: {error} Scale it down first.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image that Pillow can read.") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BOX))


def classify(model, words, path, *, top=5):
    """The most probable classes of an image, or of each file in a folder.

    Args:
        model: as `load_classifier` returns it.
        words: likewise.
        path: an image file, or a folder (without those below it).
        top: how many classes.

    Returns:
        `pandas.DataFrame`, a row for each file and rank: file, rank, words, probability. A file of
        a folder that cannot be classified has one row of rank 0, its words are the reason.

    Raises:
        ImageError: the file cannot be classified, or the folder is empty.
    """
    path = Path(path)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise ImageError(f"{path} holds no files.")
    images, rows = {}, []
    for file in files:
        try:
            images[file] = read_image(file, size=model.input_shape[1])
        except ImageError as error:
            if file == path:
                raise
            rows.append((file.name, 0, str(error), np.nan))
    if images:
        logits = model.predict(np.stack(list(images.values())), verbose=0)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        for file, row in zip(images, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            rows += [(file.name, r, words[i], float(row[i])) for r, i in enumerate(best, start=1)]
    table = pd.DataFrame(rows, columns=["file", "rank", "words", "probability"])
    return table.sort_values(["file", "rank"], ignore_index=True)
