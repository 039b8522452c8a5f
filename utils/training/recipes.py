"""How a network is trained, as data: recipes, and what each optimizer is used with."""

import dataclasses
import math
import re
from fractions import Fraction
from typing import Any

from utils.fields import check_choice
from utils.models.presets import total_stride


@dataclasses.dataclass(frozen=True)
class OptimizerDefaults:
    """What an optimizer is used with where a run names nothing else."""

    learning_rate: float  # its peak, at a batch of 256 images
    l2: float = 0.0  # times the kernels (of muon, the classifier's), added to their gradients
    batch_power: float = 0.5  # of the batch size, to which a scaled rate is in proportion
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the Keras optimizer


# The learning rates are the middle ones of the study "optimizer" (06_search), each of which trains
# these networks. Classic L2 goes with SGD alone: adaptive optimizers divide it by the size of the
# gradients, so that the same number means another thing; AdamW's decay is decoupled from them.
# Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
# The rate of SGD follows the batch size, that of optimizers whose steps do not grow with the
# gradients its square root. Sources: Goyal et al., "Accurate, Large Minibatch SGD", 2017; Malladi
# et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022.
OPTIMIZERS = {
    "sgd": OptimizerDefaults(
        0.5, l2=5e-4, batch_power=1, settings={"momentum": 0.9, "nesterov": True}
    ),
    # The paper's on ImageNet, with L2 on all weights and biases. Source: README and main.py of
    # kevin-ssy/FishNet.
    "momentum": OptimizerDefaults(
        0.1, l2=1e-4, batch_power=1, settings={"momentum": 0.9, "l2_on_all": True}
    ),
    "adam": OptimizerDefaults(3e-3),
    "adamw": OptimizerDefaults(3e-3, settings={"weight_decay": 0.05}),
    "rmsprop": OptimizerDefaults(1e-3),
    # The rate and the L2 of what it does not orthogonalize are those of "sgd".
    "muon": OptimizerDefaults(0.02, l2=5e-4, settings={"weight_decay": 0.01}),
}
# Those with weight decay beside the gradients.
DECOUPLED = [name for name, usual in OPTIMIZERS.items() if "weight_decay" in usual.settings]


IMAGE_SIZES = (32, 512)  # of one's own pictures and of ImageNet, in pixels
# what the field `image_sizes` must be
RESIZING = '"full", or sizes in pixels and their shares of the epochs, as in "32x14-48x6-64x2"'
SCHEDULES = ("linear", "cosine", "steps")
FLIPS = ("random", "alternating")  # each image anew; or each one in every second epoch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the network or the data.

    Raises:
        ValueError: a value or a combination that is not valid, with what is.
    """

    optimizer: str  # in `OPTIMIZERS`
    learning_rate: float  # its peak, at a batch of 256 images
    scale_learning_rate: bool = False  # with the batch size, as in `OptimizerDefaults`
    warmup: float = 0.0  # fraction of all steps with a linear rise
    # After it "linear" or "cosine", to zero; or "steps", tenfold at 30, 60 and 90 % of the steps.
    schedule: str = "linear"
    # Epochs without a better loss before the rate, constant until then, falls tenfold; 0: off.
    plateau_patience: int = 0
    l2: float = 0.0  # times the kernels (of muon, the classifier's), added to their gradients
    weight_decay: float | None = None  # of adamw and muon, see there; None: as in `OPTIMIZERS`
    augment: bool = False  # random crops and horizontal flips
    # Of an image, the least share that a crop shows, which is enlarged; 1: crops are of its size
    # and shifted by up to an eighth of it. Only where images are augmented.
    crop_area: float = 1.0
    flip: str = "random"  # in `FLIPS`; how images are flipped where they are augmented
    cutmix: float = 0.0  # share of the augmented images of which another one replaces a part
    standardize: bool = False  # per-channel mean and deviation of the training set; otherwise / 255
    label_smoothing: float = 0.0  # part of the target that is spread over all classes
    ema: float = 0.0  # momentum of a moving average of the weights, evaluated beside them; 0: none
    image_sizes: str = "full"  # in training; or, with shares of the epochs, as "32x14-48x6-64x2"
    batch_size: int = 256  # where a run names none
    epochs: int = 30  # where a run names none
    checkpoint_every: int = 1  # epochs, where a run names none
    version: int = 1  # of the recipe of this name; see `RECIPES`

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("flip", self.flip, FLIPS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name, required, valid in (
            ("crop_area", "in (0, 1]", 0 < self.crop_area <= 1),
            ("cutmix", "in [0, 1]", 0 <= self.cutmix <= 1),
            ("learning_rate", "above 0", 0 < self.learning_rate < math.inf),
            ("warmup", "in [0, 1)", 0 <= self.warmup < 1),
            ("l2", "at least 0", 0 <= self.l2 < math.inf),
            ("weight_decay", "at least 0", 0 <= (self.weight_decay or 0) < math.inf),
            ("plateau_patience", "at least 0", self.plateau_patience >= 0),
            ("label_smoothing", "in [0, 1)", 0 <= self.label_smoothing < 1),
            ("ema", "in [0, 1)", 0 <= self.ema < 1),
        ):
            if not valid:
                raise ValueError(f"{name} must be {required}. Received: {getattr(self, name)!r}")
        if self.weight_decay is not None and self.optimizer not in DECOUPLED:
            raise ValueError(
                f"weight_decay is for {' and '.join(DECOUPLED)}; {self.optimizer} has l2. "
                f"Received: weight_decay={self.weight_decay!r}"
            )
        if not self.augment and (self.crop_area < 1 or self.flip != "random" or self.cutmix):
            raise ValueError(
                "crop_area, flip and cutmix apply only to augmented images; set augment to true. "
                f"Received: augment={self.augment!r}, crop_area={self.crop_area!r}, "
                f"flip={self.flip!r}, cutmix={self.cutmix!r}"
            )
        if self.warmup and self.plateau_patience:
            raise ValueError(
                "warmup and plateau_patience exclude each other: the one is a schedule of all "
                "steps, the other lowers a constant learning rate. Set one of them to 0. "
                f"Received: warmup={self.warmup!r}, plateau_patience={self.plateau_patience!r}"
            )
        if self.schedule != "linear" and self.plateau_patience:
            raise ValueError(
                f"schedule {self.schedule} needs plateau_patience=0. "
                f"Received: plateau_patience={self.plateau_patience!r}"
            )
        if self.schedule == "steps" and self.warmup:
            raise ValueError(f"schedule steps needs warmup=0. Received: warmup={self.warmup!r}")

        self._phases()

    def _phases(self) -> list[tuple[int, Fraction]]:
        """Sizes of the training images in pixels, with their share of the epochs."""
        if self.image_sizes == "full":
            return []
        parts = self.image_sizes.split("-")
        found = [re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)", part) for part in parts]
        phases = [(int(match[1]), Fraction(match[2])) for match in found if match]
        if len(phases) < len(found) or not all(size and share for size, share in phases):
            raise ValueError(f"image_sizes must be {RESIZING}. Received: {self.image_sizes!r}")
        return phases

    @property
    def sizes(self) -> list[int]:
        """Of the images in training, in pixels; empty where they are as they are."""
        return [size for size, _ in self._phases()]

    def phase(self, epoch: int, epochs: int) -> tuple[int | None, int]:
        """How large the images are in an epoch.

        Args:
            epoch: counted from 0.
            epochs: of the run.

        Returns:
            (their size in pixels, None for as they are; the epoch before which that ends).
        """
        phases = self._phases()
        total, done = sum(share for _, share in phases), Fraction(0)
        for size, share in phases:
            done += share
            end = math.floor(epochs * done / total)
            if epoch < end:
                return size, end
        return None, epochs

    def rate(self, batch_size: int) -> float:
        """Peak learning rate at a batch size, in images per step."""
        power = OPTIMIZERS[self.optimizer].batch_power if self.scale_learning_rate else 0
        return self.learning_rate * (batch_size / 256) ** power


# Results name the recipe and its version. To change one: keep it as "<name>-v<version>", and give
# the new one the next version. Older results, their names and their commands then mean the former.
RECIPES = {
    # papermill notebooks/03_train.ipynb report/executed/simple-course.ipynb -p recipe course
    # The course report's training, as far as it is described.
    "course": Recipe(optimizer="adam", learning_rate=1e-3, plateau_patience=3, checkpoint_every=5),
    # papermill notebooks/03_train.ipynb report/executed/simple-tuned.ipynb -p recipe tuned
    # Of the trials on the hold-out ("recipe" in `utils.experiments.catalog`) the best that changes
    # nothing but the optimizer.
    "tuned": Recipe(
        optimizer="muon",
        learning_rate=0.02,
        scale_learning_rate=True,
        warmup=0.15,
        l2=5e-4,
        # Kernels shrink as fast as by the L2 of version 1: its rate * L2 / (1 - momentum) is this
        # rate * this decay.
        weight_decay=0.125,
        augment=True,
        standardize=True,
        epochs=8,  # 12 minutes on two CPU cores with `simple`
        version=2,
    ),
    # papermill notebooks/03_train.ipynb report/executed/simple-tuned-v1.ipynb -p recipe tuned-v1
    "tuned-v1": Recipe(
        optimizer="sgd",
        learning_rate=0.5,
        scale_learning_rate=True,
        warmup=0.15,
        l2=5e-4,
        augment=True,
        standardize=True,
        epochs=8,
    ),
    # papermill notebooks/03_train.ipynb report/executed/fishnet150.ipynb -p dataset imagenet
    #   -p archive PATH -p preset fishnet150 -p recipe paper
    # The paper's on ImageNet: 78.14 % for FishNet-150. Not run here.
    # Source: README and main.py of kevin-ssy/FishNet.
    "paper": Recipe(
        optimizer="momentum",
        learning_rate=0.1,
        scale_learning_rate=True,
        schedule="steps",
        l2=1e-4,
        augment=True,
        standardize=True,
        epochs=100,
    ),
}
# The authors' longer one: 79.35 % for FishNet-150. Not run here.
RECIPES["paper-long"] = dataclasses.replace(
    RECIPES["paper"], schedule="cosine", label_smoothing=0.1, epochs=200
)


def check_image_sizes(recipe: Recipe, network: Any, stem: str, task: str, most: int) -> None:
    """Refuses sizes of the training images that a network or a task cannot take.

    Args:
        recipe: with the sizes.
        network: a config of `utils.models.presets`.
        stem: of the network.
        task: what it is trained for.
        most: the size of the images, in pixels.

    Raises:
        ValueError: says which sizes are valid.
    """
    if recipe.sizes and task != "classification":
        raise ValueError(
            'image_sizes must be "full" for any task but classification: boxes and masks are not '
            f"resized. Received: {recipe.image_sizes!r}"
        )
    stride = total_stride(network, stem)
    least = stride if stride > 1 else IMAGE_SIZES[0]  # in which a DenseNet can halve five times
    if any(size % stride or not least <= size <= most for size in recipe.sizes):
        valid = ", ".join(str(size) for size in range(stride, most + 1, stride))
        valid = valid if stride > 1 else f"from {least} to {most}"
        raise ValueError(
            f"image_sizes must be multiples of the network's total stride, {stride} with "
            f"stem={stem!r}: {valid}. Received: {recipe.image_sizes!r}"
        )


def check_image_size(size: int, network: Any, stem: str) -> None:
    """Refuses a size of all images that a network cannot take.

    Args:
        size: in pixels.
        network: a config of `utils.models.presets`.
        stem: of the network.

    Raises:
        ValueError: names the nearest valid sizes.
    """
    stride, (least, most) = total_stride(network, stem), IMAGE_SIZES
    if least <= size <= most and not size % stride:
        return
    valid = range(-(-least // stride) * stride, most + 1, stride)
    nearest = sorted(sorted(valid, key=lambda other: abs(other - size))[:2])
    raise ValueError(
        f"image_size must be from {least} to {most} and a multiple of the network's total stride, "
        f"{stride} with stem={stem!r}; nearest: {' and '.join(map(str, nearest))}. "
        f"Received: image_size={size}"
    )


def current_name(name: str, version: int = 1) -> str:
    """What the recipe of a result is called now.

    Args:
        name: in the result.
        version: likewise; results without one are of the first.
    """
    is_current = name not in RECIPES or RECIPES[name].version == version
    return name if is_current else f"{name}-v{version}"


def family_of(name: str) -> str:
    """The name of a recipe without its version."""
    return re.sub(r"-v\d+$", "", name)


def name_in_runs(name: str) -> str:
    """What a run's name says of its recipe: also its version, from the second on."""
    version = RECIPES[name].version
    return family_of(name) + (f"-v{version}" if version > 1 else "")


def get_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, with some fields changed.

    Another optimizer than the recipe's own brings its usual learning rate, L2 and weight decay
    (`OPTIMIZERS`), where they are not among the changes.

    Args:
        name: a key of `RECIPES`.
        **changes: fields of `Recipe`; those that are None stay as they are.

    Returns:
        The changed recipe.

    Raises:
        ValueError: unknown name, with the valid ones, or a value that is not valid.
    """
    check_choice("recipe", name, RECIPES)
    recipe = RECIPES[name]
    changes = {field: value for field, value in changes.items() if value is not None}
    optimizer = changes.get("optimizer", recipe.optimizer)
    if optimizer != recipe.optimizer and optimizer in OPTIMIZERS:
        usual = OPTIMIZERS[optimizer]
        its_own = {"learning_rate": usual.learning_rate, "l2": usual.l2, "weight_decay": None}
        changes = its_own | changes
    return dataclasses.replace(recipe, **changes)
