"""One style for all figures: legible in print at column width, and for the color-blind."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image

WIDTH = 6.3  # inches: 16 cm, the text width of an A4 page
PALETTE = "colorblind"
DPI = 200
SMALL = 7.5  # points, the smallest text of any figure


def set_style() -> None:
    """Sets the style of every figure that follows.

    Notebooks show figures as JPEG: with photographs in them, PNG would be five times as large.
    """
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80, "subsampling": 0})
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": 85,
            "savefig.dpi": DPI,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.labelsize": 9,
            "legend.frameon": False,
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
    Path(folder).mkdir(parents=True, exist_ok=True)
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png")
    image = Image.open(pixels).convert("RGB").quantize(256)
    image.save(Path(folder) / f"{name}.png", optimize=True, dpi=(DPI, DPI))
    if vector:
        figure.savefig(Path(folder) / f"{name}.pdf", metadata={"CreationDate": None})


def colors_of(names: Iterable[str]) -> dict[str, Any]:
    """A color for each name, in order of appearance; all different, however many there are."""
    names = list(dict.fromkeys(names))
    palette = sns.color_palette(PALETTE)
    if len(names) > len(palette):
        palette = sns.color_palette("husl", len(names))
    return dict(zip(names, palette, strict=False))


def percent(*axes: Any) -> None:
    """Labels x or y axes, whose values are fractions, with whole percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
