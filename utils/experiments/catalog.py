"""Every experiment by name, and its command: `python -m utils.experiments.catalog ablations`."""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

from utils.commands import one_line_errors
from utils.experiments.ablations import (
    ablation_runs,
    evaluate_missing_batch_statistics,
    recipe_runs,
)
from utils.experiments.common import ABLATION_OPTIONS
from utils.experiments.comparison import COMPARISONS, comparison_runs
from utils.experiments.processes import run_missing
from utils.experiments.search import SPACES, points, run_config, sweep
from utils.training.config import RunConfig

JOURNAL = "runs/search/journal.log"  # of `06_search`
# The course report's recipe on a tenth of the images.
COURSE_TENTH: dict[str, Any] = {
    "recipe": "course",
    "kind": "ablation",
    "fraction": 0.1,
    "precision": "float32",
}


def cost_runs() -> list[RunConfig]:
    """Two epochs of a tenth of the images with the course report's recipe: the second is timed."""
    changes: dict[str, dict[str, Any]] = {
        "simple-graph": {"preset": "simple"},
        "simple-eager": {"preset": "simple", "eager": True},
        "resnet-report": {"preset": "resnet_report"},
    }
    return [
        RunConfig(**COURSE_TENTH, **change, epochs=2, run_dir=f"runs/cost-{name}-seed0")
        for name, change in changes.items()
    ]


def fast_layers_runs() -> list[RunConfig]:
    """Whether accuracy is the same with Keras' layers, the fast layers and bfloat16: two seeds."""
    options = {**ABLATION_OPTIONS, "epochs": 3}
    changes: dict[str, dict[str, Any]] = {
        "fast-layers-false": {"fast_layers": False},
        "fast-layers-true": {},
        "mixed-bfloat16": {"precision": "mixed_bfloat16"},
    }
    return [
        RunConfig(
            **{**options, **change},
            seed=seed,
            run_dir=f"runs/third-simple-tuned-3ep-{name}-seed{seed}",
        )
        for name, change in changes.items()
        for seed in (0, 1)
    ]


def gradient_runs() -> list[RunConfig]:
    """Residual networks whose gradients are set beside FishNet's (`utils.analysis.gradients`)."""
    course = {**COURSE_TENTH, "batch_size": 64}
    changes: dict[str, dict[str, Any]] = {
        "residual": {"preset": "residual", **ABLATION_OPTIONS},
        "resnet": {"preset": "resnet_report", "epochs": 3, **course},
        "resnet50": {"preset": "resnet50", "epochs": 2, **course},
    }
    return [
        RunConfig(**change, run_dir=f"runs/gradients-{name}-seed0")
        for name, change in changes.items()
    ]


def resnet_runs() -> list[RunConfig]:
    """The course report's ResNet with further seeds: it learns with none of them."""
    return [
        RunConfig(
            **COURSE_TENTH,
            preset="resnet_report",
            epochs=1,
            seed=seed,
            split="holdout",
            run_dir=f"runs/resnet-report-tenth-seed{seed}",
        )
        for seed in (1, 2)
    ]


def compared_runs(task: str) -> list[RunConfig]:
    """The runs of a comparison of `utils.experiments.comparison`."""
    return list(comparison_runs(task).values())


def study_runs(name: str) -> list[RunConfig]:
    """The runs of a study of `utils.experiments.search`."""
    return [run_config(point) for point in points(name)]


EXPERIMENTS: dict[str, Callable[[], Sequence[RunConfig]]] = {
    "ablations": ablation_runs,
    "cost": cost_runs,
    "fast_layers": fast_layers_runs,
    "gradients": gradient_runs,
    "recipe": recipe_runs,
    "resnet": resnet_runs,
    **{task: functools.partial(compared_runs, task) for task in COMPARISONS},
    **{name: functools.partial(study_runs, name) for name in SPACES},
}


def run(name: str) -> None:
    """Runs what has no complete result yet.

    Args:
        name: in `EXPERIMENTS`.

    Raises:
        RuntimeError: a run failed; says where its log is. The same call continues from there.
    """
    if name in SPACES:
        sweep(name, JOURNAL)
    else:
        run_missing(EXPERIMENTS[name]())
    if name == "ablations":
        evaluate_missing_batch_statistics()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.experiments.catalog",
        description="Runs what is missing of an experiment.",
    )
    parser.add_argument("name", choices=EXPERIMENTS)
    name = parser.parse_args().name
    with one_line_errors(parser):
        run(name)


if __name__ == "__main__":
    main()
