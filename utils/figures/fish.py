"""The figure of the fish: tail, body and head of a built model, with their connections."""

import math
from typing import Any

import keras
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from utils.figures.style import PALETTE, SMALL, WIDTH
from utils.models.fishnet import STAGES

_CONNECTIONS = (  # the transfer branches: from, to
    ("tail_2", "body_1"), ("tail_1", "body_2"), ("stem", "body_3"),
    ("body_2", "head_1"), ("body_1", "head_2"), ("bridge", "head_3"),
)  # fmt: skip
_BOX_WIDTH = 0.7  # of the distance between two stages


def draw_fish(model: keras.Model) -> Axes:
    """Draws a FishNet: a box per stage, as high as its resolution on a log scale.

    Each box shows the channels (bold) and the resolution of the stage's output. Straight arrows are
    the trunk; curved ones the branches that are concatenated: to the body above, to the head below.

    Args:
        model: a model of `build_fishnet`; shapes are read from its stage layers.

    Returns:
        The axes of a new figure, 16 cm wide.

    Source: after figure 2 of arXiv 1901.03495.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3), layout="constrained")
    shapes = {name: model.get_layer(name).output.shape[1:] for name in STAGES}
    position = {name: x for x, name in enumerate(STAGES)}
    smallest = min(rows for rows, _, _ in shapes.values())
    height = {name: 1.0 + 0.8 * math.log2(rows / smallest) for name, (rows, _, _) in shapes.items()}
    colors = part_colors()

    for name, (rows, columns, channels) in shapes.items():
        x, color = position[name], colors[name.split("_")[0]]
        ax.add_patch(
            FancyBboxPatch(
                (x - _BOX_WIDTH / 2, -height[name] / 2),
                _BOX_WIDTH,
                height[name],
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=(*color, 0.25),
                edgecolor=color,
                linewidth=1.2,
            )
        )
        ax.text(x, 0.22, str(channels), ha="center", va="center", fontsize=8, fontweight="bold")
        ax.text(x, -0.24, f"{rows}×{columns}", ha="center", va="center", fontsize=SMALL)
        ax.text(
            x, -3.05, name.replace("_", " "), ha="center", va="center", fontsize=SMALL, color=color
        )

    for x in range(len(STAGES) - 1):
        ax.add_patch(_arrow((x + _BOX_WIDTH / 2, 0), (x + 1 - _BOX_WIDTH / 2, 0), "0.25", 0))
    for start, end in _CONNECTIONS:
        part = end.split("_")[0]
        side = 1 if part == "body" else -1
        foot, tip = ((position[name], side * height[name] / 2) for name in (start, end))
        ax.add_patch(_arrow(foot, tip, colors[part], -0.45 * side))
    ax.set(xlim=(-0.5, len(STAGES) - 0.5), ylim=(-3.2, 4.4))
    ax.axis("off")
    return ax


def part_colors() -> dict[str, Any]:
    """The color of each part of the fish, in this and in the other diagrams."""
    palette = sns.color_palette(PALETTE)
    return {
        "stem": (0.35, 0.35, 0.35),
        "tail": palette[0],
        "bridge": palette[4],
        "body": palette[2],
        "head": palette[3],
    }


def _arrow(
    start: tuple[float, float], end: tuple[float, float], color: Any, curvature: float
) -> FancyArrowPatch:
    return FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        connectionstyle=f"arc3,rad={curvature}",
        mutation_scale=7,
        shrinkA=0,
        shrinkB=0,
        linewidth=1,
        color=color,
    )
