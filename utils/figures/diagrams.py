"""Diagrams of boxes and arrows: what FishNet's stages are made of, and the way to a result."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from utils.figures.fish import part_colors
from utils.figures.style import SMALL, WIDTH

GRAY = (0.45, 0.45, 0.45)


class Box(NamedTuple):
    """A box of a diagram."""

    x: float
    y: float
    text: str
    color: Any = GRAY
    width: float = 1.0
    height: float = 0.62


def draw_blocks() -> Figure:
    """Bottleneck, UR block, DR block and bridge; in each, what leaves the gradient a free path.

    Returns:
        The matplotlib `Figure`. Thick lines are paths without a convolution.

    Source: sections 3.1 to 3.3 of arXiv 1901.03495, and the authors' code.
    """
    colors = part_colors()
    figure, axes = plt.subplots(figsize=(WIDTH, 3.35), layout="constrained")
    _bottleneck(axes, 0.0, colors["tail"])
    _refinement(axes, 4.05, colors["body"], head=False)
    _refinement(axes, 8.1, colors["head"], head=True)
    _bridge(axes, 12.15, colors["bridge"])
    axes.set(xlim=(-1.45, 13.95), ylim=(-0.55, 8.15), aspect="auto")
    axes.axis("off")
    return figure


def draw_flow() -> Figure:
    """The way from the archive to the report, and what happens when a training is interrupted.

    Returns:
        The matplotlib `Figure`.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 2.15), layout="constrained")
    colors = part_colors()
    wide = {"width": 2.75, "height": 1.4}
    above = [
        Box(0, 3.4, "archive,\nits checksum\nverified", **wide),
        Box(3.3, 3.4, "shuffled\nTFRecords and a\nmanifest", **wide),
        Box(6.6, 3.4, "decoded images,\nuint8, mapped\ninto memory", **wide),
        Box(9.9, 3.4, "batches, drawn\nby (seed, epoch,\nstep) alone", **wide),
    ]
    below = [
        Box(9.9, 0.9, "training steps,\none compiled\ngraph", colors["body"], **wide),
        Box(6.6, 0.9, "evaluation\nafter each\nepoch", colors["body"], **wide),
        Box(3.3, 0.9, "one JSON file\nper run, and its\npredictions", colors["tail"], **wide),
        Box(0, 0.9, "tables,\nfigures,\nthe report", colors["tail"], **wide),
    ]
    checkpoint = Box(13.2, 0.9, "checkpoint,\nrenamed when\ncomplete", colors["head"], **wide)
    for row in (above, below):
        for start, end in zip(row, row[1:], strict=False):
            _between(axes, start, end)
    _between(axes, above[-1], below[0], vertical=True)
    _between(axes, below[0], checkpoint, shift=0.25)
    _between(axes, checkpoint, below[0], shift=-0.25)
    axes.text(13.2, 2.15, "after a kill:\nthe same bits", **_text_at_center())
    for box in (*above, *below, checkpoint):
        _draw(axes, box)
    axes.set(xlim=(-1.4, 14.6), ylim=(0.1, 4.2))
    axes.axis("off")
    return figure


def _bottleneck(axes: Axes, x: float, color: Any) -> None:
    """Three convolutions and a shortcut."""
    _title(axes, x, "bottleneck", "every stage")
    steps = ["BN, ReLU\n1×1 to c / 4", "BN, ReLU\n3×3", "BN, ReLU\n1×1 to c"]
    _column(axes, x, [1.3, 2.75, 4.2], steps, color, width=1.9, height=0.95)
    _plus(axes, x, 5.6)
    _path(axes, [(x, 0.2), (x, 0.82)])
    _path(axes, [(x, 4.68), (x, 5.38)], arrow=True)
    _around(axes, x, -1.28, 0.55, 5.6)
    _path(axes, [(x, 5.82), (x, 6.5)], arrow=True)
    axes.text(x - 1.18, 4.95, "identity", fontsize=SMALL, ha="left", va="center")


def _refinement(axes: Axes, x: float, color: Any, head: bool) -> None:
    """A UR block of the body, or a DR block of the head."""
    _title(axes, x, *(("DR block", "head") if head else ("UR block", "body")))
    branch, resampling = (
        ("equal width", "max-pool 2×2") if head else ("dilation 1, 2 or 4", "nearest ×2")
    )
    _column(axes, x, [2.2], [f"residual branch\n{branch}"], color, height=1.1)
    _column(axes, x, [5.0], [resampling], color)
    _plus(axes, x, 3.8)
    _path(axes, [(x, 0.2), (x, 1.64)])
    _path(axes, [(x, 2.76), (x, 3.58)], arrow=True)
    _around(axes, x, -1.28, 0.55, 3.8)
    shortcut = "identity" if head else "sum of k\nchannels"
    axes.text(x - 1.28, 4.02, shortcut, fontsize=SMALL, ha="left")
    _path(axes, [(x, 4.02), (x, 4.68)], arrow=True)
    _transfer(axes, x, 6.05, color, below=5.32)


def _bridge(axes: Axes, x: float, color: Any) -> None:
    _title(axes, x, "bridge", "between tail and body")
    _column(axes, x, [1.3], ["score layers to 2c"], color, width=2.7)
    _column(axes, x, [3.05], ["residual\nstage\nto c: r"], color, width=1.25, height=1.4, left=-0.7)
    _column(axes, x, [3.05], ["squeeze,\nexcite:\na"], color, width=1.25, height=1.4, left=0.7)
    _column(axes, x, [5.35], ["r · a + a"], color)
    _path(axes, [(x, 0.2), (x, 0.98)], arrow=True)
    for side in (-0.7, 0.7):
        _path(axes, [(x + side, 1.62), (x + side, 2.33)], arrow=True)
        _path(axes, [(x + side, 3.77), (x + side, 5.02)], arrow=True)
    _path(axes, [(x, 5.68), (x, 6.5)], arrow=True)


def _title(axes: Axes, x: float, name: str, where: str) -> None:
    axes.text(x, 7.65, name, ha="center", fontsize=9, fontweight="bold")
    axes.text(x, 7.1, where, ha="center", fontsize=SMALL)
    axes.text(x, -0.15, "input", **_text_at_center())


def _column(
    axes: Axes,
    x: float,
    heights: Sequence[float],
    texts: Sequence[str],
    color: Any,
    *,
    width: float = 2.3,
    height: float = 0.62,
    left: float = 0.0,
) -> None:
    """Boxes above each other, joined by lines."""
    for y, text in zip(heights, texts, strict=True):
        _draw(axes, Box(x + left, y, text, color, width, height))
    for low, high in zip(heights, heights[1:], strict=False):
        _path(axes, [(x, low + height / 2), (x, high - height / 2)], arrow=True)


def _transfer(axes: Axes, x: float, y: float, color: Any, *, below: float) -> None:
    """The concatenation of a transfer branch."""
    _draw(axes, Box(x, y, "concatenate", color, 2.3))
    _path(axes, [(x, below), (x, y - 0.34)], arrow=True)
    _path(axes, [(x + 1.75, 4.6), (x + 1.75, y), (x + 1.2, y)], arrow=True, free=True)
    axes.text(x + 1.75, 4.25, "transfer", ha="center", fontsize=SMALL)
    _path(axes, [(x, y + 0.34), (x, 6.98)], arrow=True)


def _around(axes: Axes, x: float, side: float, low: float, high: float) -> None:
    """The shortcut."""
    points = [(x, low), (x + side, low), (x + side, high), (x - 0.24, high)]
    _path(axes, points, arrow=True, free=True)


def _plus(axes: Axes, x: float, y: float) -> None:
    axes.text(
        x,
        y,
        "+",
        **(_text_at_center() | {"fontsize": 9}),
        bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "0.25"},
    )


def _path(
    axes: Axes, points: Sequence[tuple[float, float]], *, arrow: bool = False, free: bool = False
) -> None:
    """A line through points; thick where nothing on it is a convolution beside the trunk's."""
    width = 2.0 if free else 0.9
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, color="0.2", lw=width, solid_joinstyle="miter", zorder=1)
    if arrow:
        style = {"arrowstyle": "-|>", "lw": width, "color": "0.2", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", points[-1], points[-2], arrowprops=style, zorder=1)


def _between(
    axes: Axes, start: Box, end: Box, *, vertical: bool = False, shift: float = 0.0
) -> None:
    """An arrow from the edge of a box to that of the next."""
    side = 1 if end.x > start.x else -1
    if vertical:
        points = ((start.x, start.y - start.height / 2), (end.x, end.y + end.height / 2))
    else:
        points = (
            (start.x + side * start.width / 2, start.y + shift),
            (end.x - side * end.width / 2, end.y + shift),
        )
    axes.add_patch(
        FancyArrowPatch(
            *points, arrowstyle="-|>", mutation_scale=8, color="0.25", shrinkA=0, shrinkB=0
        )
    )


def _draw(axes: Axes, box: Box) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2, box.y - box.height / 2),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=(*box.color, 0.22),
            edgecolor=box.color,
            linewidth=1.0,
            zorder=2,
        )
    )
    axes.text(box.x, box.y, box.text, **_text_at_center(), zorder=3)


def _text_at_center() -> dict[str, Any]:
    return {"ha": "center", "va": "center", "fontsize": SMALL}
