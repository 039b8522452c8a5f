"""The parameters of a training run, checked before any work begins."""

import re
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.data.manifest import DATASETS, ORDERS, SHUFFLE_WINDOW, SPLITS
from utils.devices import DISTRIBUTIONS
from utils.models.presets import STEMS, get_preset
from utils.training.recipes import get_recipe
from utils.training.results import REPORTED, result_path

CHOICES = {
    "dataset": DATASETS,
    "task": tuple(REPORTED),
    "stem": STEMS,
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "split": SPLITS,
    "cache": ("memory", "file"),
    "kind": ("train", "ablation"),
    "record_order": ORDERS,
    "distribution": DISTRIBUTIONS,
}

# Fields that change the preset, where they are not None.
NETWORK_CHANGES = (
    "width", "blocks", "down_sampling", "activation", "dropout", "stochastic_depth",
)  # fmt: skip

# Fields that change the recipe, where they are not None.
RECIPE_CHANGES = (
    "optimizer", "learning_rate", "warmup", "plateau_patience", "l2", "augment", "standardize",
)  # fmt: skip

# Fields whose value, where it is not the default, is part of the run's name.
NAMED = (
    "task", "kind", "fraction", "batch_size", "stem", *NETWORK_CHANGES, "batch_norm_momentum",
    "initial_weights", "precision", "fast_layers", "eager", "split", "record_order",
    "shuffle_window", *RECIPE_CHANGES, "label_smoothing", "ema",
)  # fmt: skip

# tiny-shapes is small: smaller batches and more passes make as many steps as it needs.
SHAPES_DEFAULTS = {"epochs": 8, "batch_size": 64}


@dataclass(frozen=True)
class RunConfig:
    """One training run. Fields that are None take a value from the recipe or the dataset.

    Raises:
        ValueError: a value that is not valid, with the valid ones.
    """

    preset: str = "simple"  # a name in `utils.models.presets.PRESETS`
    dataset: str = "tiny-imagenet"  # or "tiny-shapes"
    task: str = "classification"  # or "localization", a box too; "segmentation", pixels
    data_dir: str | None = None  # folder of the TFRecords; None: data/<dataset>
    recipe: str = "tuned"  # a name in `utils.training.recipes.RECIPES`
    epochs: int | None = None  # passes over the training images
    batch_size: int | None = None  # images a step; None: 256, on tiny-shapes 64
    seed: int = 0  # of weights, order and augmentation
    stem: str = "imagenet"  # stride 4; "half": stride 2; "full": stride 1
    width: float | None = None  # of a FishNet, times the paper's; this and the next five: None is
    blocks: int | None = None  # what the preset says. In each stage and branch of a FishNet
    down_sampling: str | None = None  # max_pool, max_pool_3x3, average_pool or convolution
    activation: str | None = None  # any of Keras'
    dropout: float | None = None  # before the classifier
    stochastic_depth: float | None = None  # share of bottlenecks left out, in the last stage
    initial_weights: str | None = None  # a .keras file to start from; classifiers may differ
    batch_norm_momentum: float | None = None  # of the running averages; None: the network's own
    precision: str = "float32"  # Keras dtype policy
    fast_layers: bool = True  # on a CPU, layers that compute the same faster; False: Keras' own
    eager: bool = False  # no graph and no fast layers, as the earlier report ran; slow
    kind: str = "train"  # or "ablation": kept out of the results table
    fraction: float = 1.0  # share of the training images that is used
    split: str = "val"  # what is reported on; "holdout" leaves its images out of training
    record_order: str = "shuffled"  # or "classes": one class after another, as if never shuffled
    shuffle_window: int = SHUFFLE_WINDOW  # images among which each epoch's order is drawn
    optimizer: str | None = None  # this and the next six: None is what the recipe says
    learning_rate: float | None = None  # at its peak, for a batch of 256
    warmup: float | None = None  # share of the steps; then a linear fall to zero; 0: constant
    plateau_patience: int | None = None  # epochs before the rate falls tenfold; 0: never
    l2: float | None = None  # times the kernels, added to their gradients
    augment: bool | None = None  # random crops and flips
    standardize: bool | None = None  # per-channel mean and deviation, otherwise / 255
    label_smoothing: float = 0.0  # share of the target spread over all classes
    ema: float = 0.0  # momentum of an average of the weights, evaluated beside them; 0: none
    cache: str = "memory"  # where decoded images are kept; "file": in run_dir
    run_dir: str | None = None  # None: runs/<what distinguishes this run>
    results_dir: str | None = None  # of the JSON; None: report/results, of drawn images run_dir
    weights_dir: str = "report/weights"  # final weights of real runs, to be committed
    checkpoint_every: int | str | None = None  # epochs; or, for long ones, "500 steps"
    distribution: str = "auto"  # over all GPUs; "none": the first device alone
    tensorboard: bool = False  # whether to write TensorBoard scalars to run_dir

    def __post_init__(self):
        self.network  # noqa: B018 - refuses what cannot be built
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name} must be one of {', '.join(valid)}. Received: {getattr(self, name)!r}"
                )
        for name, value in self._implied().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("epochs", "batch_size", "shuffle_window"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a whole number from 1. Received: {getattr(self, name)!r}"
                )
        if not re.fullmatch(r"[1-9]\d*( steps| epochs)?", str(self.checkpoint_every)):
            raise ValueError(
                'checkpoint_every must be a number of epochs from 1, or steps as in "500 steps". '
                f"Received: {self.checkpoint_every!r}"
            )
        for name in ("label_smoothing", "ema", "batch_norm_momentum"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"{name} must be in [0, 1). Received: {getattr(self, name)!r}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1]. Received: {self.fraction!r}")
        if self.task == "segmentation" and self.dataset == "tiny-imagenet":
            raise ValueError(
                "tiny-imagenet has no masks; task segmentation needs dataset tiny-shapes. "
                f"Received: dataset={self.dataset!r}"
            )
        if self.task != "classification" and self.record_order != "shuffled":
            raise ValueError(
                "record_order must be shuffled for any task but classification. "
                f"Received: {self.record_order!r}"
            )
        if self.initial_weights and not Path(self.initial_weights).is_file():
            raise ValueError(
                f"initial_weights must be a .keras file. Received: {self.initial_weights!r}"
            )
        if self.run_dir is None:
            object.__setattr__(self, "run_dir", self._usual_run_dir())

    def _implied(self):
        """What the fields that are None stand for."""
        recipe = self.full_recipe
        return {
            "epochs": recipe.epochs,
            "batch_size": 256,
            "checkpoint_every": recipe.checkpoint_every,
            "data_dir": f"data/{self.dataset}",
            **(SHAPES_DEFAULTS if self.dataset == "tiny-shapes" else {}),
        }

    def _unusual(self):
        """The fields, but for run_dir, whose value is not the default."""
        usual = {**{field.name: field.default for field in fields(self)}, **self._implied()}
        usual["run_dir"] = self.run_dir
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def _usual_run_dir(self):
        parts = [] if self.dataset == "tiny-imagenet" else [self.dataset]
        parts += [self.preset, self.recipe, f"{self.epochs}ep"]
        unusual = self._unusual()
        if self.initial_weights:
            unusual["initial_weights"] = Path(self.initial_weights).stem
        parts += [f"{name}-{unusual[name]}" for name in NAMED if name in unusual]
        return "runs/" + "-".join([*parts, f"seed{self.seed}"]).replace("_", "-")

    @property
    def network(self):
        """The preset's config with the changes that this run makes to it."""
        return get_preset(self.preset, **{name: getattr(self, name) for name in NETWORK_CHANGES})

    @property
    def full_recipe(self):
        """The `Recipe` with the changes that this run makes to it."""
        return get_recipe(self.recipe, **{name: getattr(self, name) for name in RECIPE_CHANGES})

    @property
    def run_id(self):
        """Base name of the run's folder and of its result."""
        return Path(self.run_dir).name

    @property
    def result_file(self):
        """Where the result JSON is. Unless asked to, a run on drawn images stays in its folder."""
        usual = self.run_dir if self.dataset == "tiny-shapes" else "report/results"
        return result_path(self.results_dir or usual, self.run_id)

    @property
    def parameters(self):
        """What 03_train must be given for this run; the rest is its default."""
        named = {name: getattr(self, name) for name in ("preset", "recipe", "epochs", "seed")}
        named |= self._unusual()
        if self.run_dir != self._usual_run_dir():
            named["run_dir"] = self.run_dir
        return named

    @property
    def command(self):
        """The papermill command that repeats this run."""
        parameters = " ".join(f"-p {k} {shlex.quote(str(v))}" for k, v in self.parameters.items())
        return (
            f"papermill notebooks/03_train.ipynb report/executed/{self.run_id}.ipynb {parameters}"
        )

    def checkpoint_steps(self, steps_per_epoch):
        """Steps from one checkpoint to the next."""
        number, _, unit = str(self.checkpoint_every).partition(" ")
        return int(number) * (1 if unit == "steps" else steps_per_epoch)

    def identity(self):
        """The fields that decide the result: what must not change when a run is continued."""
        incidental = {
            "data_dir", "run_dir", "results_dir", "weights_dir", "checkpoint_every", "cache",
            "distribution", "tensorboard",
        }  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name not in incidental}
