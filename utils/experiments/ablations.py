"""One factor at a time: why the course report's networks failed, and what improves the recipe."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from utils import environment
from utils.data.manifest import ORDERS, load_manifest
from utils.data.pipeline import evaluation_batches, feed
from utils.experiments.common import ABLATION_OPTIONS, DEFAULT_SEEDS, uncertainty_of_difference
from utils.files import load_model
from utils.models.fast_layers import replace_layers
from utils.training import results
from utils.training.config import ResolvedConfig, RunConfig
from utils.training.loop.callbacks import reported
from utils.training.loop.network import source_of
from utils.training.optimizers import compile_model

ADAM = {"optimizer": "adam", "learning_rate": 1e-3, "warmup": 0.0, "plateau_patience": 3}

# name of the run: (what it is, changes to the default)
FACTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "why-stem-half": ("stem with stride 2 instead of 4", {"stem": "half"}),
    "why-no-augmentation": ("no augmentation", {"augment": False}),
    "why-no-l2": ("no L2", {"l2": 0.0}),
    "why-adam-no-l2": ("Adam at a constant 10⁻³, no L2", {**ADAM, "l2": 0.0}),
    "why-no-standardize": ("pixels / 255", {"standardize": False}),
    "why-course-recipe": ("the course report's recipe", {"recipe": "course"}),
    "why-class-order": (
        "class-ordered records, window of 1,000",
        {"record_order": "classes"},
    ),
    "why-bn-momentum-0.999": ("BatchNorm momentum 0.999", {"batch_norm_momentum": 0.999}),
    "why-bn-momentum-0.99": (
        "BatchNorm momentum 0.99, Keras' default",
        {"batch_norm_momentum": 0.99},
    ),
    "why-bn-momentum-0.1": ("BatchNorm momentum 0.1", {"batch_norm_momentum": 0.1}),
    "why-course-bn-momentum-0.99": (
        "the course report's recipe, BatchNorm momentum 0.99",
        {"recipe": "course", "batch_norm_momentum": 0.99},
    ),
}


# The fields of every run of the search for a recipe: long enough to see what regularizes.
RECIPE_OPTIONS: dict[str, Any] = {
    "recipe": "tuned-v1",
    "epochs": 12,
    "kind": "ablation",
    "split": "holdout",
    "precision": "float32",
}

BFLOAT16 = {"precision": "mixed_bfloat16"}
MUON: dict[str, Any] = {**BFLOAT16, "optimizer": "muon"}
MUON_SILU: dict[str, Any] = {**MUON, "activation": "silu"}

# name of the runs: (what it is, changes to the default, number of seeds); the first one of a preset
# and precision is what its others are compared with
TRIALS: dict[str, tuple[str, dict[str, Any], int]] = {
    "l2-5e-4-rate-0.5": ("L2 5·10⁻⁴, rate 0.5: the default", {}, 2),
    "l2-1e-4-rate-0.5": ("L2 10⁻⁴", {"l2": 1e-4}, 1),
    "l2-1e-4-rate-1.5": ("L2 10⁻⁴, rate 1.5", {"l2": 1e-4, "learning_rate": 1.5}, 1),
    "l2-5e-5-rate-1.0": ("L2 5·10⁻⁵, rate 1", {"l2": 5e-5, "learning_rate": 1.0}, 1),
    "l2-5e-4-rate-0.5-bfloat16": ("the default in bfloat16; all below too", BFLOAT16, 2),
    "stem-half-resized": (
        "stem of stride 2, images of 32, 48, 64 pixels",
        {**BFLOAT16, "stem": "half", "image_sizes": "32x14-48x6-64x2"},
        1,
    ),
    "silu": ("SiLU in place of ReLU", {**BFLOAT16, "activation": "silu"}, 1),
    "hard-silu": ("hard SiLU in place of ReLU", {**BFLOAT16, "activation": "hard_silu"}, 1),
    "ema-0.998": ("the default beside averaged weights, EMA 0.998", {**BFLOAT16, "ema": 0.998}, 1),
    "zero-init": (
        "each bottleneck's last convolution starts at zero",
        {**BFLOAT16, "zero_init": True},
        1,
    ),
    "muon": ("Muon, rate 0.02, weight decay 0.01", MUON, 1),
    "muon-rate-0.05": (
        "Muon, rate 0.05, weight decay 0.01",
        {**MUON, "learning_rate": 0.05},
        1,
    ),
    "muon-decay-0.125": (
        "Muon, rate 0.02, weight decay 0.125",
        {**MUON, "weight_decay": 0.125},
        1,
    ),
    "muon-silu": (
        "Muon, rate 0.02, weight decay 0.01, and SiLU",
        MUON_SILU,
        1,
    ),
    "muon-rate-0.05-silu": (
        "Muon, rate 0.05, weight decay 0.01, and SiLU",
        {**MUON_SILU, "learning_rate": 0.05},
        1,
    ),
    "muon-decay-0.125-silu": (
        "Muon, rate 0.02, weight decay 0.125, and SiLU",
        {**MUON_SILU, "weight_decay": 0.125},
        1,
    ),
    "muon-decay-0.25-silu": (
        "Muon, rate 0.02, weight decay 0.25, and SiLU",
        {**MUON_SILU, "weight_decay": 0.25},
        1,
    ),
    "muon-decay-0.125-silu-smoothing": (
        "Muon, rate 0.02, weight decay 0.125, SiLU and label smoothing 0.1",
        {**MUON_SILU, "weight_decay": 0.125, "label_smoothing": 0.1},
        1,
    ),
}


def ablation_runs() -> list[ResolvedConfig]:
    """All runs, the default's first.

    Returns:
        The runs, resolved.
    """
    default: list[tuple[str, int, dict]] = [("why-default", seed, {}) for seed in DEFAULT_SEEDS]
    changed = [(name, 0, changes) for name, (_, changes) in FACTORS.items()]
    return [
        RunConfig(
            **{**ABLATION_OPTIONS, **changes}, seed=seed, run_dir=f"runs/{name}-seed{seed}"
        ).resolve()
        for name, seed, changes in default + changed
    ]


def ablation_table(results_dir: str | Path = "report/results") -> pd.DataFrame:
    """What each factor costs or gains.

    Args:
        results_dir: folder with the results of `ablation_runs()`.

    Returns:
        `pandas.DataFrame`, the largest loss first: changed, n (how many runs, which differ in their
        seed, the row is the mean of), train_top1 (of the last epoch) and top1 (of the hold-out),
        both fractions, reference (what the row is compared with), difference (percentage points of
        top-1 from it), uncertainty (one standard deviation of that difference) and run. The first
        row is the default.

        The reference is the mean of the default's seeds, and the uncertainty that of
        `utils.experiments.common.uncertainty_of_difference`. What changes evaluation alone is the
        same training as the default's first seed, and compared with that; the uncertainty is then
        binomial, as if the two were evaluated on different images, and so an upper bound.

    Raises:
        FileNotFoundError: a result is missing.
        ValueError: a run is not complete.
    """
    names = [run.run_id for run in ablation_runs()]
    seeds = len(DEFAULT_SEEDS)
    changed = [what for what, _ in FACTORS.values()]
    names += [batch_statistics_id(names[0], order) for order in ORDERS]
    changed += ["evaluated with batch statistics", "batch statistics, few classes each"]
    found = [results.read_complete(results.result_path(results_dir, name)) for name in names]
    top1 = 100 * np.array([result["metrics"]["top1"] for result in found])
    # An evaluation has no history: the training before it is the default's.
    histories = [result["history"] or found[0]["history"] for result in found]
    train = [history["top1"][-1] for history in histories]
    default = top1[:seeds].mean()
    rows = pd.DataFrame(
        {
            "changed": ["nothing (mean of the seeds)", *changed],
            "n": [seeds, *[1] * len(changed)],
            "train_top1": [np.mean(train[:seeds]), *train[seeds:]],
            "top1": np.array([default, *top1[seeds:]]) / 100,
            "reference": "mean of the seeds",
            "difference": np.array([default, *top1[seeds:]]) - default,
            "uncertainty": uncertainty_of_difference(top1[:seeds]),
            "run": ["why-default", *names[seeds:]],
        }
    )
    same = np.array([False, *(h["loss"] == histories[0]["loss"] for h in histories[seeds:])])
    images = found[0]["dataset"]["counts"]["holdout"]
    variances = sum(p * (1 - p) / images for p in (rows["top1"], top1[0] / 100))
    rows.loc[same, "reference"] = "its seed 0"
    rows.loc[same, "difference"] = 100 * rows["top1"] - top1[0]
    rows.loc[same, "uncertainty"] = 100 * variances**0.5
    return pd.concat([rows[:1], rows[1:].sort_values("difference")], ignore_index=True)


def recipe_runs() -> list[ResolvedConfig]:
    """The runs of `TRIALS`: `simple` on the training set without the hold-out, if not said."""
    return [run for name in TRIALS for run in _runs_of(name)]


def _runs_of(trial: str) -> list[ResolvedConfig]:
    _, changes, seeds = TRIALS[trial]
    options = {**RECIPE_OPTIONS, **changes}
    return [
        RunConfig(**options, seed=seed, run_dir=f"runs/recipe-{trial}-seed{seed}").resolve()
        for seed in range(seeds)
    ]


def recipe_table(results_dir: str | Path = "report/results") -> pd.DataFrame:
    """What was tried for a better recipe.

    Args:
        results_dir: folder with the results of `recipe_runs()`.

    Returns:
        `pandas.DataFrame`, in the order of `TRIALS`: changed, preset, n (seeds that the row is the
        mean of), train_top1 (of the last epoch), top1 (of the hold-out) and ema_top1 (of averaged
        weights, where there are), all three fractions; difference (percentage points of top-1 from
        the first row of the same preset and precision), error (one standard deviation of that
        difference, by the binomial of the hold-out, which is the same images for every seed), and
        differs (whether the difference is more than two of these).

    Raises:
        FileNotFoundError: a result is missing.
        ValueError: a run is not complete.
    """
    rows = []
    for name, (changed, _, seeds) in TRIALS.items():
        runs = _runs_of(name)
        found = [results.read_complete(results.result_path(results_dir, r.run_id)) for r in runs]
        top1 = np.mean([result["metrics"]["top1"] for result in found])
        images = found[0]["dataset"]["counts"]["holdout"]
        rows.append(
            {
                "changed": changed,
                "preset": runs[0].preset,
                "precision": runs[0].precision,
                "n": seeds,
                "train_top1": np.mean([result["history"]["top1"][-1] for result in found]),
                "top1": top1,
                "ema_top1": np.mean([r.get("metrics_ema", {}).get("top1", np.nan) for r in found]),
                "variance": top1 * (1 - top1) / images,
            }
        )
    table = pd.DataFrame(rows)
    groups = table.groupby(["preset", "precision"], sort=False)
    default = groups[["top1", "variance"]].transform("first")
    table["difference"] = 100 * (table["top1"] - default["top1"])
    table["error"] = 100 * (table.pop("variance") + default["variance"]) ** 0.5
    table["differs"] = table["difference"].abs() > 2 * table["error"]
    return table.drop(columns="precision")


class _BatchStatistics(keras.layers.BatchNormalization):
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True, mask=mask)


def batch_statistics_id(run_id: str, record_order: str = "shuffled") -> str:
    """The `run_id` of what `evaluate_with_batch_statistics` writes."""
    return f"{run_id}-batch-statistics" + ("" if record_order == "shuffled" else f"-{record_order}")


def with_batch_statistics(model: keras.Model) -> keras.Model:
    """A copy of a model whose BatchNorm uses the mean and variance of the batch, always.

    Args:
        model: a functional `keras.Model`.

    Returns:
        A `keras.Model` with the same weights, not compiled.
    """

    def kind_of(layer: keras.layers.Layer) -> type:
        kind = type(layer)
        return _BatchStatistics if kind is keras.layers.BatchNormalization else kind

    return replace_layers(model, kind_of)


def evaluate_with_batch_statistics(
    config: ResolvedConfig, record_order: str = "shuffled"
) -> dict[str, Any]:
    """Evaluates a complete run again as if BatchNorm had been left in training mode.

    Args:
        config: the run, whose `model.keras` must be in its run_dir.
        record_order: whether a batch is a sample of all classes, "shuffled", or of few, "classes".

    Returns:
        A result of its own, written beside the run's: the metrics of this evaluation, no history.

    Raises:
        FileNotFoundError: the trained network is not there; says how to train it again.
    """
    result = results.read_result(config.result_file)
    if not Path(config.run_dir, "model.keras").exists():
        raise FileNotFoundError(
            f"{config.run_dir}/model.keras is missing. Delete {config.result_file} and run "
            "`python -m utils.experiments.catalog ablations`, which trains it again."
        )
    model = with_batch_statistics(load_model(f"{config.run_dir}/model.keras"))
    compile_model(model, config.full_recipe, steps=1, batch_size=config.batch_size)
    source = source_of(config, load_manifest(config.data_dir))
    batches = evaluation_batches(source, by_class=record_order == "classes")
    measured = model.evaluate(feed(batches), return_dict=True, verbose=0)
    for name in ("metrics_train", "metrics_flip", "metrics_ema", "legs"):  # of the training
        result.pop(name, None)
    result |= {
        "env": environment.describe(config.precision),
        "run_id": batch_statistics_id(config.run_id, record_order),
        "command": "python -m utils.experiments.catalog ablations",
        "history": {},
        "seconds": {},
        "metrics": {
            **reported(measured),
            "split": config.split,
        },
    }
    results.write_result(config.result_file.with_name(f"{result['run_id']}.json"), result)
    return result


def evaluate_missing_batch_statistics() -> None:
    """Evaluates the default run with batch statistics, in both orders, where no result has it."""
    default, *_ = ablation_runs()
    for order in ORDERS:
        name = batch_statistics_id(default.run_id, order)
        if not default.result_file.with_name(f"{name}.json").exists():
            evaluate_with_batch_statistics(default, order)
