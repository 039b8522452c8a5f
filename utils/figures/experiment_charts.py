"""The charts of ablations, searches and comparisons (`04_analysis`, `06_search`, `07_…`)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from utils.figures.style import SMALL, WIDTH, WORDS, colors_of
from utils.training.results import TITLES


def plot_ablations(table: pd.DataFrame) -> Figure:
    """What each change costs or gains in hold-out top-1, and the training top-1 beside it.

    Args:
        table: as `utils.experiments.ablations.ablation_table` returns it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.28 * len(table) + 1.1), sharey=True, width_ratios=(3, 2)
    )
    _plot_differences(left, table, label="uncertainty between seeds")
    left.set(xlabel="points from the default")
    right.hlines(table["changed"], 100 * table["top1"], 100 * table["train_top1"], color="0.7")
    for column, label, color in (("train_top1", "training set", "C1"), ("top1", "hold-out", "C0")):
        right.scatter(100 * table[column], table["changed"], color=color, label=label, zorder=3)
    right.set(xlabel="top-1, %")
    right.grid(visible=False, axis="y")
    handles, labels = (
        a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (left, right)), strict=True)
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def plot_variants(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What each value of each study gains or loses against the default.

    Args:
        tables: dict of study: what `utils.experiments.search.study_table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    heights = [len(table) for table in tables.values()]
    figure, panels = plt.subplots(
        len(tables),
        1,
        figsize=(WIDTH, 0.19 * sum(heights) + 0.42 * len(tables)),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (study, table) in zip(panels.flat, tables.items(), strict=True):
        labels = [point_label(row) for row in table.to_dict("records")]
        _plot_differences(axes, table.assign(changed=labels))
        axes.set_title(WORDS.get(study, study), loc="left")
    panels.flat[-1].set(
        xlabel="percentage points of hold-out top-1 from the default (gray: uncertainty)"
    )
    return figure


def point_label(row: Mapping[str, Any]) -> str:
    """A study's point in words.

    Args:
        row: of what `utils.experiments.search.study_table` returns, or of several studies together.

    Returns:
        For example "SGD, 1/3 × its default rate".
    """
    if pd.notna(row.get("width")):
        width = Fraction(row["width"]).limit_denominator(16)
        return f"{width} of the paper's width, blocks per stage: {row['blocks']:.0f}"
    if pd.notna(row.get("rate")):
        factor = Fraction(row["rate"]).limit_denominator(10)
        return f"{WORDS[row['optimizer']]}, {factor} × its default rate"
    return WORDS.get(row["changed"], row["changed"])


def _plot_differences(axes: Any, table: pd.DataFrame, label: str | None = None) -> None:
    """Bars of the column `difference`, first row on top, over a band of its uncertainty."""
    uncertainty = table["uncertainty"].iloc[0]
    axes.axvspan(-uncertainty, uncertainty, color="0.88", label=label)
    axes.barh(table["changed"], table["difference"], xerr=table["uncertainty"], color="C0")
    axes.axvline(0, color="0.3", lw=1)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def plot_comparison(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Differences from the first network, by metric: bars for the means, points for the seeds.

    Args:
        tables: dict of title: what `utils.experiments.comparison.comparison_table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, len(tables), figsize=(WIDTH, 2.6), squeeze=False)
    colors = colors_of(name for table in tables.values() for name in table.index[1:])
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        ending = " difference"
        metrics = [name.removesuffix(ending) for name in table if name.endswith(ending)]
        others = table.iloc[1:]
        places = np.arange(len(metrics))
        height = 0.8 / len(others)
        for i, (name, row) in enumerate(others.iterrows()):
            own = places + (i - (len(others) - 1) / 2) * height
            axes.barh(
                own,
                [row[f"{metric} difference"] for metric in metrics],
                height,
                color=colors[name],
            )
            for place, metric in zip(own, metrics, strict=True):
                by_seed = row[f"{metric} by seed"]
                axes.plot(by_seed, [place] * len(by_seed), "o", color="0.2", ms=3, mfc="white")
        axes.set_yticks(places, [TITLES[metric] for metric in metrics])
        axes.invert_yaxis()
        axes.axvline(0, color="0.3", lw=1)
        axes.grid(visible=False, axis="y")
        axes.set(title=title, xlabel=f"percentage points from {table.index[0]}")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    figure.legend(handles, colors, loc="outside lower center", ncols=len(colors))
    return figure


def plot_sizes(table: pd.DataFrame) -> Figure:
    """Top-1 of each width and depth against parameters and MACs; the numbers are blocks.

    Args:
        table: as `utils.experiments.search.study_table` returns it for the study `size`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharey=True)
    widths = sorted(set(table["width"]))
    # Not the colors of networks: a line is several of them.
    styles = dict(zip(widths, zip("os^vD", "63041", strict=True), strict=False))
    for axes, x in zip(panels, ("parameters", "macs"), strict=True):
        for width, group in table.groupby("width"):
            label = str(Fraction(width).limit_denominator(16))
            marker, gray = styles[width]
            axes.plot(
                group[x] / 1e6, 100 * group["top1"], marker=marker, color=f"0.{gray}", label=label
            )
            for row in group.itertuples():
                where = (getattr(row, x) / 1e6, 100 * row.top1)
                axes.annotate(row.blocks, where, (4, 4), textcoords="offset points", fontsize=SMALL)
        axes.set(xscale="log")
        axes.margins(x=0.1, y=0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set(xlabel="million parameters", ylabel="hold-out top-1, %")
    panels[1].set(xlabel="million multiply-accumulates per image")
    handles, labels = panels[0].get_legend_handles_labels()
    labels = [f"{label} of the paper's width" for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
