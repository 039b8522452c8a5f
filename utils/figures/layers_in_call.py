"""The course report's symptoms by what may have caused them."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.analysis.published import COURSE_EPOCHS
from utils.experiments.layers_in_call.symptoms import verdicts
from utils.figures.style import SMALL, WIDTH

COLUMNS = {
    "graph_error": "graph\nstops with\nthe error",
    "memory": "memory\ngrows: MiB\nper call",
    "seconds": "slower:\nlast / second\nepoch",
    "train": "training\ntop-1 (equal\nepochs)",
    "val": "hold-out\ntop-1 (equal\ntraining)",
}
LAYERS = {
    "none": "nothing (fault-free)",
    "batch_norm": "BatchNorm",
    "shortcut": "shortcuts",
    "squeeze": "squeeze block",
    "score": "score layers",
    "transfer": "transfer blocks",
    "convolution": "convolutions",
    "everything": "everything",
}
MANNERS = {
    "": "",
    "once": "",
    "local": ", local variable",
    "attribute": ", new attribute",
    "list": ", kept in a list",
}
COLORS = {"shown": "#f4b183", "chance": "#fbe3d1", "not shown": "#e3e9ee", None: "white"}
LEGEND = {"shown": "as in the course report", "chance": "worse: at chance", "not shown": "not so"}


def plot_symptoms(table: pd.DataFrame, course: pd.Series) -> Figure:
    """A table of five symptoms by variant; where a symptom is shown, the cell is orange.

    Args:
        table: as `utils.experiments.layers_in_call.symptoms.symptoms` returns it.
        course: the row of the same network in `utils.analysis.published.COURSE_REPORT`, with what
            `utils.experiments.layers_in_call.symptoms.beside` says of it.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.27 * (len(table) + 1) + 1.1))
    labels = ["course report, simple"]
    texts = ["yes", "yes", "yes", _text(course, "train"), _text(course, "val"), str(COURSE_EPOCHS)]
    _draw_row(axes, 0, texts, ["shown"] * len(COLUMNS))
    for y, (_, row) in enumerate(table.iterrows(), 1):
        labels.append(variant_label(row))
        found = verdicts(row)
        texts = [*(_text(row, name) for name in COLUMNS), _trained(row)]
        _draw_row(axes, y, texts, [found[name] for name in COLUMNS])
    axes.set_yticks(range(len(labels)), labels, fontsize=SMALL)
    headings = [*COLUMNS.values(), "epochs\n× seeds"]
    axes.set_xticks(range(len(headings)), headings, fontsize=SMALL)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, len(COLUMNS) + 0.3), ylim=(len(labels) - 0.5, -0.5))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axhline(0.5, color="0.3", lw=0.8)
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=COLORS[verdict]) for verdict in LEGEND],
        LEGEND.values(),
        loc="outside lower center",
        ncols=len(LEGEND),
        title="in brackets: share of the fault-free network's, at equal epochs or training top-1",
        title_fontsize=SMALL,
        fontsize=SMALL,
    )
    return figure


def _draw_row(axes: plt.Axes, y: int, texts: list[str], found: list[str | None]) -> None:
    for x, (text, verdict) in enumerate(zip(texts, [*found, None], strict=True)):
        axes.add_patch(Rectangle((x - 0.48, y - 0.45), 0.96, 0.9, color=COLORS[verdict]))
        axes.text(x, y, text, ha="center", va="center", fontsize=SMALL)


def variant_label(row: pd.Series) -> str:
    """What is re-created in every call, and how it is kept, in words.

    Args:
        row: of the table that `utils.experiments.layers_in_call.symptoms.symptoms` returns.

    Returns:
        For example "BatchNorm, kept in a list".
    """
    if row["network"] != "simple":
        return "ResNet of keras.applications"
    return LAYERS[row["which"]] + MANNERS[row["manner"]]


def _trained(row: pd.Series) -> str:
    return "–" if pd.isna(row["epochs"]) else f"{row['epochs']:.0f} × {row['seeds']:.0f}"


def _text(row: pd.Series, name: str) -> str:
    if name in ("train", "val"):
        value = row[f"{name}_top1"]
        return "–" if pd.isna(value) else f"{value:.1%} ({row[f'times_{name}']:.0%})"
    value = row[name]
    if pd.isna(value):
        return "–"
    if name == "graph_error":
        return "yes" if value else "no"
    return f"{value:.1f}" if name == "memory" else f"{value:.2f}"
