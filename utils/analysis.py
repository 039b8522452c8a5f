"""Numbers that the analysis takes from a run's kept predictions."""

import numpy as np
import pandas as pd


def short_name(words):
    """First of the comma-separated names of a class."""
    return words.split(",")[0]


def per_class_accuracy(predictions):
    """Top-1 by class.

    Args:
        predictions: as `utils.results.load_predictions` returns them.

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
        predictions: as `utils.results.load_predictions` returns them.
        count: how many pairs.

    Returns:
        `pandas.DataFrame`, most confused first: `class a`, `class b`, how many images of a were
        called b, of b called a, and their sum.
    """
    names = np.array([short_name(w) for w in predictions["words"]])
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (predictions["labels"], predictions["classes"][:, 0]), 1)
    first, second = np.triu_indices(len(names), k=1)
    table = pd.DataFrame(
        {
            "class a": names[first],
            "class b": names[second],
            "a called b": matrix[first, second],
            "b called a": matrix[second, first],
        }
    )
    table["together"] = table["a called b"] + table["b called a"]
    table = table.sort_values("together", ascending=False, kind="stable")
    return table.head(count).reset_index(drop=True)
