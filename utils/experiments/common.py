"""What the ablations and the search share."""

# All runs: `simple`, `tuned` otherwise, a third of train, five epochs, reported on the hold-out.
COMMON = {"epochs": 5, "kind": "ablation", "fraction": 1 / 3, "split": "holdout"}


DEFAULT_SEEDS = (0, 1)


def noise_of(top1):
    """One standard deviation of a single run's difference from the mean of several seeds."""
    return top1.std(ddof=1) * (1 + 1 / len(top1)) ** 0.5 if len(top1) > 1 else float("nan")
