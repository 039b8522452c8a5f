"""The figures of `05_performance`."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from utils.figures.style import WIDTH


def plot_speed(table: pd.DataFrame, network: str) -> Any:
    """Training speed of a network by setting, the fastest first.

    Args:
        table: as `utils.analysis.performance.speed_table` returns it.
        network: a name in its column `network`.

    Returns:
        The matplotlib `Figure`. The dashed line is the network's first row.
    """
    rows = table[table["network"] == network]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.28 * len(rows) + 0.7))
    shown = rows.sort_values("images_per_second", ascending=False)
    sns.barplot(shown, y="setting", x="images_per_second", color="C0", ax=axes)
    first = rows["images_per_second"].iloc[0]
    axes.axvline(first, color="0.4", linestyle="--", label="Keras unchanged")
    axes.set(xlabel=f"images/s in training, {network}", ylabel="")
    axes.legend(loc="lower right")
    return figure


def plot_profile(table: pd.DataFrame, count: int = 12) -> Any:
    """Where the time of a training step goes.

    Args:
        table: as `utils.analysis.performance.profile_table` returns it.
        count: kinds of operations that are shown.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.25 * count + 0.5))
    long = table.head(count).reset_index().melt("operation", var_name="layers")
    sns.barplot(long, y="operation", x="value", hue="layers", ax=axes)
    axes.set(xlabel="ms per training step, summed over threads", ylabel="")
    axes.legend(title="")
    return figure


def plot_epoch_costs(
    histories: Mapping[str, dict[str, list[float]]], memory: str, *, relative: bool = False
) -> Any:
    """Seconds and memory of each epoch, every history in a color of its own.

    Args:
        histories: lists by epoch, with `seconds` and the one named by memory, by title.
        memory: "rss_mb" or "peak_rss_mb", in MiB.
        relative: whether seconds are shown as multiples of the second epoch's.

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    for title, history in histories.items():
        epochs = range(1, len(history["seconds"]) + 1)
        unit = history["seconds"][1] if relative else 1
        left.plot(epochs, [s / unit for s in history["seconds"]], "o-", ms=3, label=title)
        right.plot(epochs, [mb / 1024 for mb in history[memory]], "o-", ms=3, label=title)
    left.set(xlabel="epoch", ylabel="seconds / second epoch's" if relative else "seconds", ylim=0)
    words = {"rss_mb": "resident memory, GiB", "peak_rss_mb": "peak memory, GiB"}
    right.set(xlabel="epoch", ylabel=words[memory], ylim=0)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(histories))
    return figure
