"""Numbers that the analysis takes from a run's kept predictions."""

import numpy as np
import pandas as pd

from utils.training.predictions import _confusions


def short_name(words):
    """First of the comma-separated names of a class."""
    return words.split(",")[0]


def per_class_accuracy(predictions):
    """Top-1 by class.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.

    Returns:
        `pandas.Series` of fractions by class name, worst first.
    """
    right = predictions["classes"][:, 0] == predictions["labels"]
    names = [short_name(w) for w in predictions["words"]]
    accuracy = pd.Series(right).groupby(predictions["labels"]).mean()
    accuracy.index = [names[i] for i in accuracy.index]
    return accuracy.sort_values(kind="stable")


def confused_pairs(predictions, count=15):
    """Pairs of classes that are most often taken for one another.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        count: how many pairs.

    Returns:
        `pandas.DataFrame`, most confused first: `class a`, `class b`, how many images of a were
        called b, of b called a, and their sum.
    """
    names = np.array([short_name(w) for w in predictions["words"]])
    matrix, first, second = _confusions(predictions)
    table = pd.DataFrame(
        {
            "class a": names[first],
            "class b": names[second],
            "a called b": matrix[first, second],
            "b called a": matrix[second, first],
        }
    )
    table["together"] = table["a called b"] + table["b called a"]
    return table.head(count)


def calibration(predictions, bins=15):
    """Whether a network is right as often as it says.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        bins: bins of equal width for the probability of the first guess.

    Returns:
        `pandas.DataFrame`, a row for each bin with images in it: `confidence`, the mean probability
        of the first guess; `accuracy`, the share that was right; `images`. The expected calibration
        error is the mean of |accuracy - confidence| weighted by images.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
    """
    confidence = predictions["probabilities"][:, 0].astype(float)
    right = predictions["classes"][:, 0] == predictions["labels"]
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(float)})
    grouped = table.groupby(bin_of)
    return grouped.mean().assign(images=grouped.size()).reset_index(drop=True)


def expected_calibration_error(table):
    """Mean of |accuracy - confidence| over all images, of what `calibration` returns."""
    return float(np.average(abs(table["accuracy"] - table["confidence"]), weights=table["images"]))


def first_epoch_above(history, level):
    """When val top-1 is first above a level.

    Args:
        history: of a result.
        level: a fraction.

    Returns:
        "epoch 3, 5 min", or "–" when it never is.
    """
    for epoch, top1 in enumerate(history["val_top1"], start=1):
        if top1 > level:
            return f"epoch {epoch}, {sum(history['seconds'][:epoch]) / 60:.0f} min"
    return "–"
