"""One style for all figures, for print and the color-blind, and the words of tables and figures."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython import display, get_ipython
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler
from PIL import Image

from utils.files import replacing
from utils.models.presets import ACTIVATIONS, TITLES

WIDTH = 6.3  # inches: 16 cm, the text width of an A4 page
PALETTE = "colorblind"
DPI = 200
SCREEN_DPI = 110  # in notebooks, where `SMALL` is 11 pixels
JPEG = {"quality": 70}
SMALL = 7.5  # points, the smallest text of any figure
OURS, THEIRS, PUBLISHED = "o", "s", "^"  # markers: this project, the course report, others
_COLORS = sns.color_palette(PALETTE)
# The color of a network, by its preset or its name in tables.
NETWORKS: dict[str, Any] = {
    "simple": _COLORS[0],
    "FishNet": _COLORS[0],
    "medium": _COLORS[2],
    "complex": _COLORS[3],
    "residual": _COLORS[4],
    "residual network": _COLORS[4],
    "residual_parameters": _COLORS[9],
    "residual_macs": sns.color_palette("dark")[4],  # the palette's pink is light blue to some
    "resnet_report": _COLORS[5],
    "resnet_report_linear": "black",
    "its tail alone": _COLORS[7],
    "U-Net": _COLORS[1],
}
WORDS = {  # of names in the code, in tables and figures
    "max_pool": "max-pool 2×2",
    "max_pool_3x3": "max-pool 3×3",
    "average_pool": "average pool 2×2",
    "convolution": "strided convolution",
    **ACTIVATIONS,
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "muon": "Muon",
    "down_sampling": "down-sampling",
    "resnet_report": "the course report's ResNet",
    "macs": "MACs",
    "top1": "top-1",
    "train_top1": "training top-1",
    "val_top1": "validation top-1",
    "seconds_per_epoch": "seconds per epoch",
    "ema_top1": "top-1, averaged weights",
    "iou": "mean IoU",
    "half": "IoU of 0.5 or more",
    "images_per_second": "training, images/s",
    "compile_seconds": "first step, s",
    "inference_images_per_second": "inference, images/s",
    "peak_rss_mb": "peak memory, MiB",
    "share_of_peak": "share of peak",
    "images_per_cpu_second": "images per CPU second",
    "pipeline_images_per_second": "images/s",
    "pipeline_cpu_ms": "CPU ms per batch",
    "waiting_share": "share of a step waited",
    "own_mb": "own memory, MiB",
    "shared_mb": "shared memory, MiB",
}


def set_style() -> None:
    """Sets the style of every figure that follows.

    Notebooks show figures as JPEG: with photographs in them, PNG would be five times as large.
    """
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs=JPEG)
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": SCREEN_DPI,
            "savefig.dpi": DPI,
            "savefig.bbox": "tight",
            "savefig.pad_inches": 0.02,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08,  # inches; labels stay off the next panel
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.labelsize": 9,
            "legend.edgecolor": "none",  # white, so that no line of the grid goes through its text
            "legend.framealpha": 1,
            "pdf.fonttype": 42,
        }
    )


def save_figure(
    figure: Figure, name: str, folder: str | Path = "figures", *, vector: bool = False
) -> None:
    """Writes a figure as PNG, with a palette of 256 colors, which makes it small.

    Args:
        figure: the matplotlib `Figure`.
        name: file name without ending.
        folder: where to; made when missing.
        vector: whether to write a PDF too, for charts that the report shows.
    """
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png")
    image = Image.open(pixels).convert("RGB").quantize(256, kmeans=1)  # closer for photographs
    with replacing(Path(folder) / f"{name}.png") as file:
        image.save(file, "png", optimize=True, dpi=(DPI, DPI))
    if vector:
        with replacing(Path(folder) / f"{name}.pdf") as file:
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})


def show_saved(name: str, alt: str, folder: str | Path = "figures") -> display.Image:
    """A figure that `save_figure` wrote, as large as those that a notebook draws.

    Colab shows no images that a Markdown cell takes from a folder.

    Args:
        name: file name without ending.
        alt: what it shows, for those who cannot see it.
        folder: where it is.

    Returns:
        What a notebook shows at the end of a cell.
    """
    shown = io.BytesIO()
    with Image.open(Path(folder) / f"{name}.png") as image:
        size = [round(pixels * SCREEN_DPI / DPI) for pixels in image.size]
        image.convert("RGB").resize(size).save(shown, "jpeg", **JPEG)
    return display.Image(shown.getvalue(), alt=alt)


def label_of(preset: str, changes: Sequence[str] = ()) -> str:
    """A network's name in figures: its preset in words, and what is changed if it is not much."""
    if len(changes) > 2:
        changes = [changes[0], "…"]
    return ", ".join([TITLES.get(preset, preset), *changes])


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the names of `WORDS` replaced by words, for people to read.

    Args:
        table: any table.

    Returns:
        A copy in which column names, row names and cells that are a name of the code are words.
    """
    named = table.map(lambda cell: WORDS.get(cell, cell) if isinstance(cell, str) else cell)
    named = named.rename(index=WORDS, columns=WORDS)
    return named.rename_axis(index=WORDS, columns=WORDS)


def show_table(
    table: pd.DataFrame,
    formats: Mapping[Any, str | Callable] | None = None,
    *,
    index: bool = True,
    words: bool = True,
) -> Styler:
    """A table for a notebook: in words, a dash for what is missing, nothing broken at a hyphen.

    Args:
        table: any table. An index that has a name becomes its first column.
        formats: how the cells of a column are written, by its name, as it is or in words; other
            numbers have no zeros at the end.
        index: whether to show an index without a name.
        words: whether names of the code become words; not where names are the user's own.

    Returns:
        A pandas `Styler`.
    """
    if None not in table.index.names:
        table, index = table.reset_index(), False
    shown = in_words(table) if words else table
    titles = dict(zip(table.columns, shown.columns, strict=True))
    given = {titles.get(name, name): text for name, text in (formats or {}).items()}
    usual = dict.fromkeys(shown, lambda cell: f"{cell:g}" if isinstance(cell, float) else cell)
    styler = shown.style.format(usual | given, na_rep="–")
    styler = styler.format_index(lambda name: str(name).replace("-", "\u2011"), axis="columns")
    unbroken = [name for name in shown if not shown[name].astype(str).str.contains(" ").any()]
    props = dict.fromkeys(shown, "min-width: 11em") | dict.fromkeys(unbroken, "white-space: nowrap")
    styler = styler.set_table_styles(
        {name: [{"selector": "td", "props": text}] for name, text in props.items()}
    )
    return styler if index else styler.hide(axis="index")


def colors_of(names: Iterable[str]) -> dict[str, Any]:
    """A color for each name.

    A network has the color of `NETWORKS` in every figure; other names have the remaining colors, in
    order of appearance, all different, however many there are.
    """
    names = list(dict.fromkeys(names))
    known = {name: NETWORKS[name] for name in names if name in NETWORKS}
    others = [name for name in names if name not in known]
    left = [color for color in _COLORS if color not in known.values()]
    if len(others) > len(left):
        left = sns.color_palette("husl", len(others))
    found = known | dict(zip(others, left, strict=False))
    return {name: found[name] for name in names}


def percent(*axes: Any) -> None:
    """Labels x or y axes, whose values are fractions, with whole percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
