"""All figures in one style: legible in print at column width, and for the colour-blind."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns

WIDTH = 6.3  # inches: 16 cm, the text width of an A4 page
PALETTE = "colorblind"


def set_style():
    """Sets the style of every figure that follows."""
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
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


def save_figure(figure, name, folder="figures"):
    """Writes a figure as PNG and PDF.

    Args:
        figure: the matplotlib `Figure`.
        name: file name without ending.
        folder: where to; made when missing.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png")
    figure.savefig(Path(folder) / f"{name}.pdf", metadata={"CreationDate": None})
