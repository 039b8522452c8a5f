"""The course report's symptoms by what may have caused them."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.experiments.layers_in_call.symptoms import LIMITS, shown
from utils.figures.style import SMALL, WIDTH

COLUMNS = {
    "graph_error": "graph\nstops",
    "memory": "memory\nMiB / 100 calls",
    "seconds": "CPU time\nlast / 2nd epoch",
    "train": "train top-1\n(of no fault's)",
    "val": "val top-1\n(of its train)",
}
LAYERS = {
    "none": "nothing",
    "batch_norm": "BatchNorm",
    "shortcut": "shortcuts",
    "squeeze": "squeeze block",
    "score": "score layers",
    "transfer": "transfer blocks",
    "convolution": "convolutions",
    "everything": "everything",
}
YES, NO, UNKNOWN = "#f4b183", "#e3e9ee", "white"


def plot_symptoms(table: pd.DataFrame, course: pd.Series) -> Figure:
    """A table of five symptoms by variant; where a symptom is shown, the cell is orange.

    Args:
        table: As `utils.experiments.layers_in_call.symptoms.symptoms` returns it.
        course: The row of the same network in `utils.analysis.published.COURSE_REPORT`.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.27 * (len(table) + 1) + 0.75))
    labels = ["course report, simple"]
    train, val = course["train_top1"], course["val_top1"]
    _draw_row(
        axes,
        0,
        ["yes", "grows", "grows", f"{train:.1%}", f"{val:.1%} ({val / train:.0%})"],
        [True] * len(COLUMNS),
    )
    for y, (_, row) in enumerate(table.iterrows(), 1):
        labels.append(_label(row))
        found = shown(row)
        _draw_row(axes, y, [_text(row, name) for name in COLUMNS], [found[n] for n in COLUMNS])
    axes.set_yticks(range(len(labels)), labels, fontsize=SMALL)
    axes.set_xticks(range(len(COLUMNS)), COLUMNS.values(), fontsize=SMALL)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, len(COLUMNS) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axhline(0.5, color="0.3", lw=0.8)
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in (YES, NO)]
    legend = f"shown (memory > {LIMITS['memory']:g}, CPU > {LIMITS['seconds']:g}, "
    legend += f"train < {LIMITS['train']:.0%}, val < {LIMITS['val']:.0%})"
    figure.legend(
        handles, [legend, "not shown"], loc="outside lower center", ncols=2, fontsize=SMALL
    )
    return figure


def _draw_row(axes: plt.Axes, y: int, texts: list[str], found: list[bool | None]) -> None:
    for x, (text, yes) in enumerate(zip(texts, found, strict=True)):
        color = UNKNOWN if yes is None else YES if yes else NO
        axes.add_patch(Rectangle((x - 0.48, y - 0.45), 0.96, 0.9, color=color))
        axes.text(x, y, text, ha="center", va="center", fontsize=SMALL)


def _label(row: pd.Series) -> str:
    if row["network"] != "simple":
        return "ResNet of keras.applications"
    manner = row["manner"]
    return LAYERS[row["which"]] + (f", {manner}" if manner not in ("", "once") else "")


def _text(row: pd.Series, name: str) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    if name == "graph_error":
        return "yes" if value else "no"
    if name == "memory":
        return f"{value:.1f}"
    if name == "seconds":
        return f"{value:.2f}"
    return f"{row[f'{name}_top1']:.1%} ({value:.0%})"
