"""The charts of a single run: while it trains, and of learning rates before it does."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from utils.figures.style import WIDTH, percent
from utils.training.results import TITLES


class LivePlot:
    """Loss, accuracy and learning rate by epoch, in one output of a notebook that grows.

    Serves as `watch` of `utils.training.run.train`. The last figure is in `figure`.
    """

    def __init__(self) -> None:
        self.output: Any = None
        self.figure: Figure | None = None

    def __call__(self, result: Mapping[str, Any]) -> None:
        """Draws a result as it stands."""
        from IPython.display import display

        self.figure = plot_run(result)
        plt.close(self.figure)  # or the cell would end with it a second time
        if self.output:
            self.output.update(self.figure)
        else:
            self.output = display(self.figure, display_id=True)


def plot_run(result: Mapping[str, Any]) -> Figure:
    """Loss, accuracy and learning rate of a run by epoch, as far as it is.

    Args:
        result: as in `utils.training.results`; without a top-1, as in segmentation, the IoU is
            shown.

    Returns:
        The matplotlib `Figure`.
    """
    history, epochs = result["history"], result["config"]["epochs"]
    accuracy = "top1" if "top1" in history else "iou"
    figure, panels = plt.subplots(1, 3, figsize=(1.25 * WIDTH, 2.1))
    for axes, name in zip(panels, ("loss", accuracy, "learning_rate"), strict=True):
        evaluated = history.get(f"val_{name}")
        done = range(1, len(history[name]) + 1)
        axes.plot(done, history[name], "--" if evaluated is not None else "-", label="training set")
        if evaluated is not None:
            points = pd.Series(evaluated, done, float).dropna()
            axes.plot(points.index, points, "o-", ms=2.5, label=result["dataset"]["split"])
            axes.legend()
        title = {"loss": "cross-entropy"}.get(name) or TITLES.get(name, "learning rate")
        axes.set(title=title, xlabel="epoch", xlim=(0.5, epochs + 0.5))
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    percent(panels[1].yaxis)
    return figure


def plot_sweep(sweep: pd.DataFrame, suggested: float) -> Figure:
    """The loss of each step against its learning rate.

    Args:
        sweep: what `utils.training.find_learning_rate.sweep_learning_rates` returns.
        suggested: the rate that is marked.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(0.7 * WIDTH, 2.5))
    axes.plot(sweep["learning_rate"], sweep["loss"], color="0.8", label="of a step")
    axes.plot(sweep["learning_rate"], sweep["smoothed"], label="smoothed")
    axes.axvline(suggested, color="0.3", ls=":", label=f"worth a try: {suggested:.2g}")
    low, high = sweep["smoothed"].min(), sweep["smoothed"].iloc[0]
    axes.set(xscale="log", xlabel="learning rate", ylabel="cross-entropy", title="A rising rate")
    axes.set_ylim(low - 0.2 * (high - low), high + 0.5 * (high - low))
    axes.legend()
    plt.close(figure)  # its cell ends with an exit, after which it would be shown again
    return figure
