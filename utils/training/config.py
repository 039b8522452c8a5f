"""The parameters of a training run, checked before any work begins."""

import contextlib
import hashlib
import os
import re
import shlex
import typing
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.data.manifest import DATASETS, IMAGE_SIZE, ORDERS, PREPARED_WITH, SPLITS, TASKS
from utils.devices import DISTRIBUTIONS
from utils.fields import Rule, check_field, one_of
from utils.models.presets import STEMS, UNetConfig, check_segments, get_preset
from utils.training.recipes import (
    RESIZING,
    Recipe,
    check_image_size,
    check_image_sizes,
    current_name,
    get_recipe,
    name_in_runs,
)
from utils.training.results import result_path

# Fields that change the preset, where they are not None.
NETWORK_CHANGES = (
    "width", "blocks", "down_sampling", "activation", "dropout", "zero_init", "logits_bn",
)  # fmt: skip

# Fields that change the recipe, where they are not None.
RECIPE_CHANGES = (
    "optimizer", "learning_rate", "warmup", "schedule", "plateau_patience", "l2", "weight_decay",
    "augment", "standardize", "crop_area", "flip", "cutmix", "label_smoothing", "ema",
    "image_sizes",
)  # fmt: skip

# Fields whose value, where it is not the default, is part of the run's name.
NAMED = (
    "image_size", "val_share", "task", "kind", "fraction", "batch_size", "stem", *NETWORK_CHANGES,
    "batch_norm_momentum", "initial_weights", "precision", "fast_layers", "eager", "split",
    "record_order", *RECIPE_CHANGES,
)  # fmt: skip

# Fields that may change when a run is continued: they do not decide its result.
INCIDENTAL = (
    "archive", "data_dir", "runs_dir", "run_dir", "results_dir", "weights_dir", "checkpoint_every",
    "evaluate_every", "distribution", "tensorboard",
)  # fmt: skip

RUNS = "runs"  # folder of the runs of this checkout

# Fields that name files and folders, which may be in the home folder, "~".
PATHS = (
    "archive", "data_dir", "runs_dir", "run_dir", "initial_weights", "results_dir", "weights_dir",
)  # fmt: skip

# How order and crops follow from the seed: 1 was tf.data's, which drew each image from a window.
INPUT = 2
_WINDOWS = {"shuffled": 20_000, "classes": 1000}  # the `shuffle_window` that 1 had, by order

# tiny-shapes is small: smaller batches and more epochs give it as many steps as it needs.
# So may be one's own pictures.
DEFAULTS: dict[str, dict[str, typing.Any]] = {
    "tiny-shapes": {"epochs": 8, "batch_size": 64},
    "folder": {"epochs": 30, "batch_size": 32, **PREPARED_WITH["folder"]},
    "imagenet": PREPARED_WITH["imagenet"],
}

_COUNT = ("a whole number of at least 1", lambda value: value >= 1)
_SHARE = ("a number in [0, 1)", lambda value: 0 <= value < 1)

# field: what it must be beyond its type, and the test. The preset and the recipe check their own.
RULES: dict[str, Rule] = {
    "dataset": one_of(DATASETS),
    "task": one_of(TASKS),
    "precision": one_of(("float32", "mixed_bfloat16", "auto")),
    "stem": one_of(STEMS),
    "split": one_of(SPLITS),
    "record_order": one_of(ORDERS),
    "kind": one_of(("train", "ablation")),
    "distribution": one_of(DISTRIBUTIONS),
    "val_share": ("a number in (0, 1)", lambda value: 0 < value < 1),
    "epochs": _COUNT,
    "evaluate_every": _COUNT,
    "batch_size": _COUNT,
    "blocks": _COUNT,
    "seed": ("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),
    "batch_norm_momentum": _SHARE,
    "fraction": ("a number in (0, 1]", lambda value: 0 < value <= 1),
    "run_dir": ("the path of a folder", lambda value: Path(value).name not in ("", "..")),
    "image_sizes": (RESIZING, lambda value: True),  # the recipe reads it
    "initial_weights": ("a .keras file that exists", lambda value: Path(value).is_file()),
    "checkpoint_every": (
        'a number of epochs of at least 1, or of steps as in "500 steps"',
        lambda value: re.fullmatch(r"[1-9]\d*( steps| epochs)?", str(value)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, as it was asked for.

    A field that is None follows from the others; `resolve` says what it is. Each is checked against
    its type and range. Strings that mean a boolean or a number, as papermill and YAML deliver them,
    are converted.

    Raises:
        ValueError: a value that is not valid, or a combination; says what is.
    """

    # what most runs are told
    preset: str = "simple"  # a name in `utils.models.presets.PRESETS`
    recipe: str = "tuned"  # a name in `utils.training.recipes.RECIPES`
    dataset: str = "tiny-imagenet"  # or "tiny-shapes", "imagenet"; or "folder", one's own pictures
    task: str = "classification"  # or "localization", a box too; "segmentation", pixels
    epochs: int | None = None  # None: the recipe's; on tiny-shapes 8, folder 30
    batch_size: int | None = None  # of a step; None: the recipe's; on tiny-shapes 64, folder 32
    seed: int = 0  # of weights, order and augmentation
    precision: str = "auto"  # the fastest here (see `train`), or a Keras dtype policy
    archive: str | None = None  # what the records are made from; None: the official address
    data_dir: str | None = None  # folder of the TFRecords; None: data/<what distinguishes them>
    runs_dir: str = RUNS  # where the folders of runs are; another one has the results, too
    run_dir: str | None = None  # None: <runs_dir>/<what distinguishes this run>

    # network; from width to logits_bn, None is what the preset says
    stem: str = "imagenet"  # stride 4; "half": stride 2; "full": stride 1
    width: float | None = None  # of a FishNet, as a multiple of the paper's
    blocks: int | None = None  # in each stage and branch of a FishNet
    down_sampling: str | None = None  # max_pool, max_pool_3x3, average_pool or convolution
    activation: str | None = None  # in `utils.models.presets.ACTIVATIONS`
    dropout: float | None = None  # rate before the classifier
    zero_init: bool | None = None  # whether each bottleneck's last convolution starts at zero
    logits_bn: bool | None = None  # whether batch normalization follows the logits
    batch_norm_momentum: float | None = None  # of the running averages; None: the network's own
    initial_weights: str | None = None  # a .keras file to start from; classifiers may differ

    # recipe; None is what the recipe says
    optimizer: str | None = None  # its usual learning rate and L2 come with it
    learning_rate: float | None = None  # at its peak, for a batch of 256
    warmup: float | None = None  # fraction of the steps in which the rate rises
    schedule: str | None = None  # after it: linear or cosine to 0, or steps
    plateau_patience: int | None = None  # epochs before a constant rate falls tenfold; 0: none
    l2: float | None = None  # times the kernels (muon: the classifier's), added to their gradients
    weight_decay: float | None = None  # of adamw and muon: times weights and rate, at each step
    augment: bool | None = None  # random crops and horizontal flips
    crop_area: float | None = None  # least share of an image in such a crop; 1: it is only shifted
    flip: str | None = None  # where augmented, random; or alternating: each in every second epoch
    cutmix: float | None = None  # share of augmented images of which another one replaces a part
    standardize: bool | None = None  # per-channel mean and deviation, otherwise / 255
    label_smoothing: float | None = None  # part of the target that is spread over all classes
    ema: float | None = None  # momentum of an average of the weights, evaluated too; 0: none
    image_sizes: str | None = None  # in training, and their shares of it, as "32x14-48x6-64x2"

    # data
    image_size: int | None = None  # of folder and imagenet, in pixels; None: 64, or 224
    val_share: float | None = None  # of it without a split: the share to validate with; None: 0.1
    fraction: float = 1.0  # of the training images that are used
    split: str = "val"  # what is reported on; "holdout" leaves its images out of training
    record_order: str = "shuffled"  # or "classes": one class after another, as if never shuffled

    # execution and bookkeeping
    fast_layers: bool = True  # on a CPU, layers that compute the same faster; False: Keras' own
    eager: bool = False  # no graph and no fast layers, as the course report ran; slow
    distribution: str = "auto"  # over all GPUs; "none": the first device alone
    kind: str = "train"  # or "ablation": kept out of the results table
    checkpoint_every: int | str | None = None  # epochs; or, for long ones, "500 steps"
    evaluate_every: int = 1  # epochs; the last one is evaluated anyway
    tensorboard: bool = False  # whether to write TensorBoard scalars to run_dir
    # of the JSON; None: report/results or, of drawn and own images and in other runs_dir, run_dir
    results_dir: str | None = None
    # of the final weights, to be committed; None: report/weights or, in other runs_dir, run_dir
    weights_dir: str | None = None

    def __post_init__(self) -> None:
        annotations = typing.get_type_hints(RunConfig)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in PATHS and isinstance(value, str):
                value = os.path.expanduser(value)
            value = check_field(
                field.name,
                value,
                annotations[field.name],
                RULES.get(field.name),
            )
            object.__setattr__(self, field.name, value)  # in its type, which frozen forbids to set
        object.__setattr__(self, "runs_dir", os.path.normpath(self.runs_dir))
        self._check_dataset()
        self._check_recipe()
        most = self.data_options.get("image_size", IMAGE_SIZE)
        check_image_sizes(self.full_recipe, self.network, self.stem, self.task, most)
        if self.task == "segmentation":
            check_segments(self.network, self.preset)
        if isinstance(self.network, UNetConfig) and self.stem != "imagenet":
            raise ValueError(
                f"stem must be left at its default for preset {self.preset}, which has none and "
                f"starts at full resolution. Received: stem={self.stem!r}"
            )
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

    def _check_recipe(self) -> None:
        """Refuses what a recipe cannot do for the dataset and the task of this run."""
        recipe = self.full_recipe
        if self.schedule and recipe.plateau_patience:
            raise ValueError(
                f"schedule {self.schedule} needs plateau_patience=0. "
                f"Received: plateau_patience={recipe.plateau_patience!r}"
            )
        if recipe.crop_area < 1 and (self.task != "classification" or self.dataset == "imagenet"):
            raise ValueError(
                "crop_area must be 1 for any task but classification, whose boxes and masks are "
                "not resized, and for dataset imagenet, which has its own crops. "
                f"Received: crop_area={recipe.crop_area!r}"
            )
        if recipe.cutmix and self.task != "classification":
            raise ValueError(
                "cutmix must be 0 for any task but classification: boxes and masks are not mixed. "
                f"Received: cutmix={recipe.cutmix!r}"
            )
        if self.evaluate_every > 1 and recipe.plateau_patience:
            raise ValueError(
                "evaluate_every must be 1 where plateau_patience lowers the learning rate by the "
                f"validation loss. Received: evaluate_every={self.evaluate_every}"
            )

    def _check_dataset(self) -> None:
        """Refuses options and tasks that a dataset does not have, and sizes of no network."""
        options = PREPARED_WITH.get(self.dataset, {})
        for name, datasets in (("image_size", "folder and imagenet"), ("val_share", "folder")):
            if name not in options and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} must be None for any dataset but {datasets}. "
                    f"Received: dataset={self.dataset!r}"
                )
        if not options:
            return
        if not (self.archive or self.data_dir):
            what = {
                "folder": "folder, zip or tar of class folders with the pictures",
                "imagenet": "folder of ImageNet's TFRecords",
            }[self.dataset]
            raise ValueError(f"archive must be the {what}. Received: archive=None")
        if self.dataset == "imagenet" and self.split != "val":
            raise ValueError(
                "split must be val for dataset imagenet, whose training images are all trained "
                f"on. Received: split={self.split!r}"
            )
        if self.dataset == "imagenet" and self.record_order != "shuffled":
            raise ValueError(
                "record_order must be shuffled for dataset imagenet. "
                f"Received: {self.record_order!r}"
            )
        if self.task != "classification":
            raise ValueError(
                f"task must be classification for dataset {self.dataset}, which has no boxes and "
                f"no masks here. Received: task={self.task!r}"
            )
        check_image_size(self.data_options["image_size"], self.network, self.stem)

    def _given(self, names: Iterable[str]) -> dict[str, typing.Any]:
        """The fields among these that are not None."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def network(self) -> typing.Any:
        """The preset's config with the changes that this run makes to it."""
        return get_preset(self.preset, **self._given(NETWORK_CHANGES))

    @property
    def full_recipe(self) -> Recipe:
        """The `Recipe` with the changes that this run makes to it."""
        return get_recipe(self.recipe, **self._given(RECIPE_CHANGES))

    def resolve(self) -> "ResolvedConfig":
        """This run with a value for all that follows from other fields."""
        derived = self._derived()
        values: dict[str, typing.Any] = {
            name: derived.get(name) if value is None else value
            for name, value in vars(self).items()
        }
        return ResolvedConfig(**values)

    def _derived(self) -> dict[str, typing.Any]:
        """What the fields that follow from others are where they are not given."""
        recipe = self.full_recipe
        derived = {
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "checkpoint_every": recipe.checkpoint_every,
            "data_dir": f"data/{self._data_name()}",
            "results_dir": "report/results",
            "weights_dir": "report/weights",
            **DEFAULTS.get(self.dataset, {}),
        }
        changed = self._changed(derived)
        if self.initial_weights:
            weights = Path(self.initial_weights).absolute()
            own = weights.stem in ("model", "model_ema")  # in a run's folder
            changed["initial_weights"] = weights.parent.name if own else weights.stem
        parts = [] if self.dataset == "tiny-imagenet" else [self._data_name(options=False)]
        parts += [self.preset, name_in_runs(self.recipe), f"{self.epochs or derived['epochs']}ep"]
        parts += [f"{name}-{changed[name]}" for name in NAMED if name in changed]
        name = "-".join([*parts, f"seed{self.seed}"]).replace("_", "-")
        derived["run_dir"] = f"{self.runs_dir}/{name}"
        if self.dataset != "tiny-imagenet" or self.runs_dir != RUNS:
            derived["results_dir"] = derived["weights_dir"] = self.run_dir or derived["run_dir"]
        return derived

    def _data_name(self, options: bool = True) -> str:
        """What distinguishes the records; of one's own pictures their place, and the options."""
        if self.dataset != "folder":
            size, usual = (x.get("image_size") for x in (self.data_options, self._usual_options))
            return self.dataset + (f"-{size}" if options and size != usual else "")
        place = str(self.archive or self.data_dir)
        place = place if "://" in place else os.path.abspath(place)
        digest = hashlib.sha256(place.encode()).hexdigest()[:6]
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(place).name.split(".")[0]).strip("-")
        parts = ["folder", *([name] if name else []), digest]
        if options:
            parts += [f"{key}-{value}" for key, value in self.data_options.items()]
        return "-".join(parts).replace("_", "-")

    @property
    def data_options(self) -> dict[str, typing.Any]:
        """The options of `utils.data.prepare.prepare_dataset` besides the archive."""
        return {**self._usual_options, **self._given(self._usual_options)}

    @property
    def _usual_options(self) -> dict[str, typing.Any]:
        return PREPARED_WITH.get(self.dataset, {})

    def _changed(self, derived: dict[str, typing.Any]) -> dict[str, typing.Any]:
        """The fields whose value is neither the default nor what follows from the others."""
        usual = USUAL | derived
        given = self._given(usual)
        return {name: value for name, value in given.items() if value != usual[name]}

    @property
    def run_id(self) -> str:
        """Base name of the run's folder and of its result."""
        return Path(self.resolve().run_dir).name

    @property
    def result_file(self) -> Path:
        """Where the result JSON is. A run on drawn or own images, or on a drive, keeps its own."""
        return result_path(self.resolve().results_dir, self.run_id)

    @property
    def parameters(self) -> dict[str, typing.Any]:
        """The parameters of 03_train that this run sets; the others are at their defaults."""
        resolved = self.resolve()
        named = {name: getattr(resolved, name) for name in ("preset", "recipe", "epochs", "seed")}
        return named | self._changed(self._derived())

    @property
    def command(self) -> str:
        """The papermill command that repeats this run."""
        parameters = " ".join(f"-p {k} {shlex.quote(str(v))}" for k, v in self.parameters.items())
        executed = shlex.quote(f"report/executed/{self.run_id}.ipynb")
        return f"papermill notebooks/03_train.ipynb {executed} {parameters}"

    def checkpoint_steps(self, steps_per_epoch: int) -> int:
        """Steps from one checkpoint to the next."""
        number, _, unit = str(self.resolve().checkpoint_every).partition(" ")
        return int(number) * (1 if unit == "steps" else steps_per_epoch)

    @property
    def evaluated_epochs(self) -> list[int]:
        """The epochs, counted from 1, after which the run is evaluated."""
        epochs = self.resolve().epochs
        every = range(self.evaluate_every, epochs, self.evaluate_every)
        return [*every, epochs]

    def identity(self) -> dict[str, typing.Any]:
        """What decides the result and must not change when a run is continued."""
        values = vars(self.resolve())
        identity = {
            **{name: value for name, value in values.items() if name not in INCIDENTAL},
            "recipe_fields": asdict(self.full_recipe),
            "input": INPUT,
        }
        if self.initial_weights:
            identity["initial_weights_crc32"] = _crc32_of_weights(self.initial_weights)
        return identity

    def differences(
        self, found: dict[str, typing.Any], manifest_sha256: str | None = None
    ) -> dict[str, tuple[object, object]]:
        """How a run differs from this one, by identity and manifest.

        Args:
            found: another run's `identity` and its manifest_sha256. It may be of an older version:
                fields that did not exist yet had their default, and fields that no longer exist
                count only if they were set. Where this run's precision is "auto", it is that run's.
            manifest_sha256: of the dataset that this run would use; None: whichever that run used.

        Returns:
            The values there and here by the name of a field; none if they are the same run.
        """
        there = _comparable(found)
        here = _comparable(self.identity())
        here["manifest_sha256"] = manifest_sha256 or there.get("manifest_sha256")
        if there.get("initial_weights_crc32") is None:  # of an older version
            there["initial_weights_crc32"] = here.get("initial_weights_crc32")
        elif "initial_weights_crc32" in here:
            here["initial_weights"] = there["initial_weights"]  # the same ones may be elsewhere
        if self.precision == "auto":
            here["precision"] = there["precision"]
        return {
            name: (there.get(name), here.get(name))
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        }


# What a field is that is not given.
USUAL: dict[str, typing.Any] = {field.name: field.default for field in fields(RunConfig)}


class ResolvedConfig(RunConfig):
    """A run in which all is resolved, as `RunConfig.resolve` returns it: to read, not to change."""

    epochs: int
    batch_size: int
    data_dir: str
    run_dir: str
    checkpoint_every: int | str
    results_dir: str
    weights_dir: str


def _crc32_of_weights(path: str) -> int | None:
    """Tells the weights of a `.keras` file from others; saved again, they are the same."""
    with contextlib.suppress(zipfile.BadZipFile, KeyError), zipfile.ZipFile(path) as file:
        return file.getinfo("model.weights.h5").CRC
    return None  # no such file, which is refused when it is read


def _comparable(identity: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """An identity with its recipe as it takes effect, however it was asked for."""
    usual = USUAL | {"precision": "float32"}  # before it could be "auto"
    values = {name: usual[name] for name in usual if name not in INCIDENTAL} | identity
    values.pop("input", None)  # a complete run is what it is; `check_config` looks at it
    if values.get("shuffle_window") == _WINDOWS[values["record_order"]]:
        del values["shuffle_window"]
    recipe = values.pop("recipe_fields")
    values["recipe"] = current_name(values["recipe"], recipe.get("version", 1))
    changes = {name: values.pop(name) for name in RECIPE_CHANGES}
    given = {name: value for name, value in changes.items() if value is not None}
    elsewhere = ("epochs", "batch_size", "checkpoint_every")  # of a run, it is among its values
    recipe = {field.name: field.default for field in fields(Recipe)} | given | recipe
    return values | {name: value for name, value in recipe.items() if name not in elsewhere}
