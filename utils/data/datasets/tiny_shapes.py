"""tiny-shapes: a synthetic dataset in Tiny ImageNet's layout, drawn from a seed in seconds.

24 classes: six shapes, plain or striped, in one of two families of color. Place, size, angle and
shade are random, and so is the clutter behind. A family is a pair of opposite hues and stripes are
as bright as plain paint, so that averages tell little: a linear classifier on pixels stays near
chance, while a small network learns the dataset in minutes. Each image has a box and a
segmentation mask. It shows that the code works; it says nothing of natural images.
"""

import colorsys
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from utils.data.manifest import IMAGE_SIZE

SHAPES = ("disk", "square", "triangle", "star", "cross", "crescent")
HUES = {"orange-blue": (0.07, 0.57), "green-purple": (0.32, 0.82)}  # turns of the color wheel
TEXTURES = ("plain", "striped")
CLASSES = [
    (f"shape{index:03d}", *kind)
    for index, kind in enumerate(itertools.product(SHAPES, HUES, TEXTURES))
]
DEFAULT_OPTIONS = {"train_per_class": 200, "validation_per_class": 50, "seed": 0}
_FINE = 4  # a shape is drawn this many times larger, then reduced: smooth edges


def draw_tiny_shapes(
    root: str | os.PathLike,
    *,
    train_per_class: int = DEFAULT_OPTIONS["train_per_class"],
    validation_per_class: int = DEFAULT_OPTIONS["validation_per_class"],
    seed: int = DEFAULT_OPTIONS["seed"],
) -> Path:
    """Draws the dataset into a folder in Tiny ImageNet's layout.

    An image depends only on the seed, its split, its class and its number.

    Args:
        root: folder to write into; made if missing.
        train_per_class: number of training images per class.
        validation_per_class: number of validation images per class.
        seed: not negative.

    Returns:
        `root`, with wnids.txt, words.txt, train/ and val/; beside each images/ a masks/ with PNG
        files of 0 (background) and 1 + the class's index in sorted wnids.
    """
    words = {wnid: f"{hue} {texture} {shape}" for wnid, shape, hue, texture in CLASSES}
    # like the real one, not in sorted order
    order = np.random.RandomState(seed).permutation(len(CLASSES))
    counts = {"train": train_per_class, "val": validation_per_class}

    def images() -> Iterator[tuple[str, str, str, Image.Image, Image.Image]]:
        for index, (wnid, shape, hue, texture) in enumerate(CLASSES):
            for split, count in counts.items():
                for number in range(count):
                    seeds = [seed, ["train", "val"].index(split), index, number]
                    image, alpha = draw_image(shape, hue, texture, np.random.RandomState(seeds))
                    inside = alpha.point([0] * 128 + [255] * 128)
                    name = f"{wnid}_{number}"
                    if split == "val":
                        name = f"val_{number * len(CLASSES) + index}"
                    yield split, wnid, name, image, inside

    return _write_layout(Path(root), [CLASSES[i][0] for i in order], words, images())


def draw_image(
    shape: str, hue: str, texture: str, random: np.random.RandomState
) -> tuple[Image.Image, Image.Image]:
    """Draws one image.

    Args:
        shape: one of `SHAPES`.
        hue: one of `HUES`.
        texture: one of `TEXTURES`.
        random: source of all that varies.

    Returns:
        The image, 64x64 RGB, and the object's coverage of each pixel, 64x64 in 0..255.
    """
    canvas = _background(random)
    alpha = _silhouette(shape, random)
    shadow = Image.new("L", alpha.size)
    shadow.paste(alpha.filter(ImageFilter.GaussianBlur(2)).point(lambda value: value // 2), (1, 2))
    canvas.paste((15, 15, 25), mask=shadow)
    canvas.paste(_paint(hue, texture, random), mask=alpha)
    grain = random.randint(-8, 9, (IMAGE_SIZE, IMAGE_SIZE, 1), np.int16)
    return Image.fromarray((np.asarray(canvas) + grain).clip(0, 255).astype(np.uint8)), alpha


def _background(random: np.random.RandomState) -> Image.Image:
    """Blurred patches of color, with thin lines and small blobs on them."""
    fine = 2 * IMAGE_SIZE
    patches = Image.fromarray(random.randint(60, 200, (4, 4, 3), np.uint8))
    canvas = patches.resize((fine, fine), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.randint(3, 7)):
        color = _color(random.uniform(), random)
        x0, y0, x1, y1 = random.uniform(0, fine, 4)
        if random.uniform() < 0.5:
            draw.line((x0, y0, x1, y1), color, width=random.randint(2, 5))
        else:
            width, height = random.uniform(4, 13, 2)
            draw.ellipse((x0, y0, x0 + width, y0 + height), color)
    return canvas.reduce(2)


def _color(hue: float, random: np.random.RandomState) -> tuple[int, int, int]:
    """A clear color of a hue."""
    shade = colorsys.hsv_to_rgb(hue % 1, random.uniform(0.75, 1), random.uniform(0.7, 0.95))
    red, green, blue = (round(255 * part) for part in shade)
    return red, green, blue


def _silhouette(shape: str, random: np.random.RandomState) -> Image.Image:
    """The shape at a random place, size and angle, all of it inside of the image."""
    radius = random.uniform(16, 25)
    center = random.uniform(radius + 1, IMAGE_SIZE - radius - 1, 2)
    points = _outline(shape) @ _rotation(random.uniform(0, 2 * math.pi)) * radius + center
    mask = Image.new("L", (IMAGE_SIZE * _FINE, IMAGE_SIZE * _FINE))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points * _FINE], fill=255)
    return mask.reduce(_FINE)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _outline(shape: str) -> np.ndarray:
    """Corners of a shape within the unit circle, (corners, 2)."""
    turn = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    if shape == "disk":
        return 0.85 * _polar(turn)
    if shape == "crescent":
        outer, inner = turn[6:55], turn[-12:11:-1]
        bite = 0.75 * _polar(inner) + [0.45, 0]
        return np.concatenate([_polar(outer), bite])
    if shape == "cross":
        arm = [(1, -0.3), (1, 0.3), (0.3, 0.3)]
        corners = [np.array(arm) @ _rotation(quarter * math.pi / 2) for quarter in range(4)]
        return np.concatenate(corners) * 0.95
    if shape == "star":
        radii = np.where(np.arange(10) % 2, 0.42, 1)
        return _polar(np.linspace(0, 2 * math.pi, 10, endpoint=False)) * radii[:, None]
    number = {"square": 4, "triangle": 3}[shape]
    return _polar(np.linspace(0, 2 * math.pi, number, endpoint=False))


def _polar(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _paint(hue: str, texture: str, random: np.random.RandomState) -> Image.Image:
    """The object's surface: one shade of a color, or stripes of a light and a dark one."""
    turn = HUES[hue][random.randint(2)] + random.uniform(-0.06, 0.06)
    color = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), _color(turn, random))
    light = Image.blend(color, Image.new("RGB", color.size, "white"), 0.65)
    dark = Image.blend(color, Image.new("RGB", color.size, "black"), 0.55)
    if texture == "plain":
        return Image.blend(color, (light, dark)[random.randint(2)], random.uniform(0, 0.7))
    angle, period = random.uniform(0, math.pi), random.uniform(7, 10)
    x, y = np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE)[:, None]
    phase = (x * math.cos(angle) + y * math.sin(angle)) / period + random.uniform()
    wave = (128 + 400 * np.sin(2 * math.pi * phase)).clip(0, 255)  # clipped: soft edges
    return Image.composite(light, dark, Image.fromarray(wave.astype(np.uint8)))


def _write_layout(
    root: Path,
    wnids: list[str],
    words: dict[str, str],
    images: Iterable[tuple[str, str, str, Image.Image, Image.Image]],
) -> Path:
    """Writes images with masks, and the boxes around these, in Tiny ImageNet's layout.

    Args:
        root: folder to write into; made if missing.
        wnids: class ids in the order of wnids.txt.
        words: words of each class id.
        images: yields (split, wnid, base name, image, inside): split is "train" or "val", image an
            RGB `PIL.Image` of 64x64, and inside an "L" one that is not zero where the object is.

    Returns:
        `root`, with wnids.txt, words.txt, train/ and val/; beside each images/ a masks/ with PNG
        files of 0 (background) and 1 + the class's index in sorted wnids.
    """
    boxes: dict[str, list[str]] = {"val": []}
    value = {wnid: 1 + index for index, wnid in enumerate(sorted(wnids))}
    for parent in ("val", *(f"train/{wnid}" for wnid in wnids)):
        for name in ("images", "masks"):
            (root / parent / name).mkdir(parents=True, exist_ok=True)
    for split, wnid, name, image, inside in images:
        folder = root / ("val" if split == "val" else f"train/{wnid}")
        inside = inside.point([0] + [value[wnid]] * 255)
        image.save(folder / "images" / f"{name}.JPEG", quality=92)
        inside.save(folder / "masks" / f"{name}.png")
        known = [wnid] if split == "val" else []
        line = _line(f"{name}.JPEG", *known, *(inside.getbbox() or (0, 0, 0, 0)))
        boxes.setdefault("val" if split == "val" else wnid, []).append(line)
    (root / "val" / "val_annotations.txt").write_text("".join(boxes.pop("val")), "utf-8")
    for wnid in wnids:
        text = "".join(boxes.get(wnid, []))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(text, "utf-8")
    (root / "words.txt").write_text("".join(_line(*pair) for pair in words.items()), "utf-8")
    (root / "wnids.txt").write_text("".join(map(_line, wnids)), "utf-8")
    return root


def _line(*fields: object) -> str:
    return "\t".join(map(str, fields)) + "\n"
