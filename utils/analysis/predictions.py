"""What the analysis computes from a run's kept predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from utils.training.predictions import confusions


def short_name(words: str) -> str:
    """The first of the comma-separated names of a class."""
    return words.split(",")[0]


def per_class_accuracy(predictions: Mapping[str, Any]) -> pd.Series:
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


def confused_pairs(predictions: Mapping[str, Any], count: int = 15) -> pd.DataFrame:
    """Pairs of classes that are most often confused with each other.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        count: how many pairs, at most.

    Returns:
        `pandas.DataFrame`, most confused first: `class a`, `class b`, the numbers of images of a
        predicted as b and of b predicted as a, and their total.
    """
    names = np.array([short_name(w) for w in predictions["words"]])
    first, second = confusions(predictions)[:count].T
    labels, predicted = predictions["labels"], predictions["classes"][:, 0]

    def confused(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((labels[:, None] == a) & (predicted[:, None] == b)).sum(axis=0)

    table = pd.DataFrame(
        {
            "class a": names[first],
            "class b": names[second],
            "a predicted as b": confused(first, second),
            "b predicted as a": confused(second, first),
        }
    )
    table["total"] = table["a predicted as b"] + table["b predicted as a"]
    return table


def calibration(predictions: Mapping[str, Any], bins: int = 15) -> pd.DataFrame:
    """Whether a network is right as often as its probabilities say.

    Args:
        predictions: as `utils.training.predictions.load_predictions` returns them.
        bins: number of bins of equal width for the probability of the predicted class.

    Returns:
        `pandas.DataFrame`, a row for each bin with images in it: `confidence`, the mean probability
        of the predicted class; `accuracy`, the fraction that was right; `images`. The expected
        calibration error is the mean of |accuracy - confidence| weighted by images.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
    """
    confidence = predictions["probabilities"][:, 0].astype(float)
    right = predictions["classes"][:, 0] == predictions["labels"]
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(float)})
    grouped = table.groupby(bin_of)
    return grouped.mean().assign(images=grouped.size()).reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean of |accuracy - confidence| over all images, from what `calibration` returns."""
    return float(np.average(abs(table["accuracy"] - table["confidence"]), weights=table["images"]))
