"""The figures of `06_search`."""

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

from utils.figures.style import WIDTH


def plot_variants(tables):
    """What each value of each study gains or loses against the default.

    Args:
        tables: dict of title: what `utils.experiments.search.table` returns.

    Returns:
        The matplotlib `Figure`.
    """
    heights = [len(table) for table in tables.values()]
    figure, panels = plt.subplots(
        len(tables),
        1,
        figsize=(WIDTH, 0.3 * sum(heights) + 0.5 * len(tables)),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (title, table) in zip(panels.flat, tables.items(), strict=True):
        noise = table["uncertainty"].iloc[0]
        axes.axvspan(-noise, noise, color="0.88")
        axes.barh(table["changed"], table["points"], xerr=table["uncertainty"], color="C0")
        axes.axvline(0, color="0.3", lw=1)
        axes.set_title(title, loc="left")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    axes.set(xlabel="points of hold-out top-1, against the default (gray: noise between seeds)")
    return figure


def plot_sizes(table):
    """Top-1 of each width and depth against parameters and against time; the numbers are blocks.

    Args:
        table: as `utils.experiments.search.table` returns it for the study `size`, and seconds an epoch.

    Returns:
        The matplotlib `Figure`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3), sharey=True)
    for axes, x, unit in zip(panels, ("parameters", "seconds"), (1e6, 1), strict=True):
        for width, group in table.groupby("width"):
            axes.plot(group[x] / unit, 100 * group["top1"], marker="o", label=f"{width:g}")
            for row in group.itertuples():
                where = (getattr(row, x) / unit, 100 * row.top1)
                axes.annotate(row.blocks, where, xytext=(4, 4), textcoords="offset points")
        axes.set(xscale="log")
        axes.margins(x=0.1, y=0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set(xlabel="million parameters", ylabel="hold-out top-1, %")
    panels[1].set(xlabel="seconds an epoch")
    panels[1].legend(title="width, times the paper's", loc="lower right")
    return figure
