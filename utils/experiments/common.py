"""Options and the uncertainty that ablations and search share."""

from typing import Any

import numpy as np

# The fields of every run: `simple` with `tuned-v1`, on a third of the training images for five
# epochs, evaluated on the hold-out.
ABLATION_OPTIONS: dict[str, Any] = {
    "recipe": "tuned-v1",
    "epochs": 5,
    "kind": "ablation",
    "fraction": 1 / 3,
    "split": "holdout",
    "precision": "float32",  # so that runs of different machines can be compared
}

DEFAULT_SEEDS = (0, 1)  # of the unchanged run; a changed run has seed 0 alone


def uncertainty_of_difference(top1: np.ndarray) -> float:
    """How far a run that changes nothing would be from the mean of several seeds.

    Args:
        top1: of the runs that differ in their seed alone.

    Returns:
        One standard deviation of a single run's difference from the mean of those n runs: their
        own, which has n - 1 degrees of freedom, times √(1 + 1/n). NaN for one run.
    """
    n = len(top1)
    return float(top1.std(ddof=1) * (1 + 1 / n) ** 0.5) if n > 1 else float("nan")
