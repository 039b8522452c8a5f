"""All figures in one style: legible in print at column width, and for the color-blind."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

WIDTH = 6.3  # inches: 16 cm, the text width of an A4 page
PALETTE = "colorblind"


def set_style() -> None:
    """Sets the style of every figure that follows.

    Notebooks show figures as JPEG: with photographs in them, PNG would be five times as large.
    """
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 85, "subsampling": 0})
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.labelsize": 9,
            "legend.frameon": False,
            "pdf.fonttype": 42,
        }
    )


def save_figure(figure: Figure, name: str, folder: str | Path = "figures") -> None:
    """Writes a figure as PNG and PDF.

    Args:
        figure: the matplotlib `Figure`.
        name: file name without ending.
        folder: where to; made when missing.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png")
    figure.savefig(Path(folder) / f"{name}.pdf", metadata={"CreationDate": None})
