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


def plot_side_by_side(table: pd.DataFrame) -> Any:
    """Training speed beside the authors' code, a panel for each network.

    Args:
        table: as `utils.analysis.performance.side_by_side_table` returns it.

    Returns:
        The matplotlib `Figure`. Points are medians, lines ranges; the dashed line is ours in
        float32, which each setting took turns with.
    """
    networks = list(dict.fromkeys(table["network"]))
    height = 0.28 * table["setting"].nunique() + 0.8
    figure, panels = plt.subplots(
        1, len(networks), figsize=(WIDTH, height), sharey=True, squeeze=False
    )
    for axes, network in zip(panels[0], networks, strict=True):
        rows = table[(table["network"] == network) & table["ratio"].notna()]
        ours = rows["code"] == "ours"
        for color, part in (("C1", rows[~ours]), ("C0", rows[ours])):
            spread = [part["ratio"] - part["lowest"], part["highest"] - part["ratio"]]
            axes.errorbar(part["ratio"], part["setting"], xerr=spread, fmt="o", ms=4, color=color)
        axes.axvline(1, color="0.4", linestyle="--")
        axes.set(title=network, xlim=(0, 1.1 * table["highest"].max()))
    panels[0][0].invert_yaxis()
    figure.supxlabel("images per CPU second, as a multiple of ours in float32", fontsize=9)
    return figure


def plot_profile(table: pd.DataFrame) -> Any:
    """Where the time of a training step goes: the twelve kinds of operations that take most.

    Args:
        table: as `utils.analysis.performance.profile_table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.5))
    long = table.head(12).reset_index().melt("operation", var_name="layers")
    sns.barplot(long, y="operation", x="value", hue="layers", ax=axes)
    axes.set(xlabel="ms per training step, summed over threads", ylabel="")
    axes.legend(title="")
    return figure


def plot_epoch_costs(
    histories: Mapping[str, dict[str, list[float]]], memory: str, *, relative: bool = False
) -> Any:
    """Seconds and memory of each epoch, every history with a marker and a gray of its own.

    Not in the colors of networks: all are of one.

    Args:
        histories: lists by epoch, with `seconds` and the one named by memory, by title.
        memory: "rss_mb" or "peak_rss_mb", in MiB.
        relative: whether seconds are shown as multiples of the second epoch's.

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    styles = zip("os^", ("0", "0.45", "0.7"), strict=True)
    for (title, history), (marker, gray) in zip(histories.items(), styles, strict=False):
        style = {"marker": marker, "color": gray, "ms": 3, "label": title}
        epochs = range(1, len(history["seconds"]) + 1)
        unit = history["seconds"][1] if relative else 1
        left.plot(epochs, [s / unit for s in history["seconds"]], **style)
        right.plot(epochs, [mb / 1024 for mb in history[memory]], **style)
    left.set(
        xlabel="epoch", ylabel="seconds, relative to epoch 2" if relative else "seconds", ylim=0
    )
    words = {"rss_mb": "resident memory, GiB", "peak_rss_mb": "peak memory, GiB"}
    right.set(xlabel="epoch", ylabel=words[memory], ylim=0)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(histories))
    return figure
