"""Grids of changes to the default run: papermill runs each point, Optuna keeps the study.

A sweep may be killed at any time, and several processes, or machines that see the same folders, may
work at one study: a point is locked while a process works at it, and the system releases the lock
when that process dies. The next sweep continues the point's run from its last checkpoint.
"""

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from utils.experiments.common import ABLATION_OPTIONS, DEFAULT_SEEDS, uncertainty_of_difference
from utils.experiments.processes import run_to_end
from utils.fields import check_choice
from utils.files import DamagedFile, locked
from utils.training.config import ResolvedConfig, RunConfig
from utils.training.recipes import OPTIMIZERS
from utils.training.results import complete_result
from utils.training.run_folder import wait_for_others

with warnings.catch_warnings():  # in a notebook tqdm, which optuna imports, misses ipywidgets
    warnings.filterwarnings("ignore", message="IProgress not found")
    import optuna
    from optuna.trial import TrialState

# name of the study: what is tried, each value with each of the others; a rate is times the
# optimizer's usual one
SPACES: dict[str, dict[str, list]] = {
    "down_sampling": {
        "down_sampling": ["max_pool", "max_pool_3x3", "average_pool", "convolution"],
    },
    "activation": {"activation": ["relu", "silu", "gelu"]},
    "dropout": {"dropout": [0.0, 0.2, 0.5]},
    "optimizer": {"optimizer": ["sgd", "adam", "adamw", "rmsprop"], "rate": [1 / 3, 1, 3]},
    "size": {"width": [1 / 8, 1 / 4, 3 / 8], "blocks": [1, 2, 4]},
}

# What the preset `simple` and the recipe `tuned-v1` have anyway.
DEFAULTS = {
    "down_sampling": "max_pool", "activation": "relu", "dropout": 0.0, "optimizer": "sgd",
    "learning_rate": 0.5, "width": 1 / 4, "blocks": 1,
}  # fmt: skip

POLL = 1.0  # seconds between looks at what another process works at


def study_names(studies: str | Iterable[str]) -> list[str]:
    """The names of one study or of several, checked.

    Args:
        studies: a name, or several.

    Returns:
        The names as a list.

    Raises:
        ValueError: an unknown name; lists the valid ones.
    """
    names = [studies] if isinstance(studies, str) else list(studies)
    for name in names:
        check_choice("study", name, SPACES)
    return names


def points(name: str) -> list[dict[str, Any]]:
    """All points of a study, as dicts."""
    space = SPACES[name]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def run_config(
    point: dict[str, Any], *, seed: int = 0, runs_dir: str | Path = "runs", **options: Any
) -> ResolvedConfig:
    """The run that a point of a study stands for.

    Args:
        point: dict by the names in a space.
        seed: of the run.
        runs_dir: folder of the runs' folders.
        **options: fields of `RunConfig` that replace those of
            `utils.experiments.common.ABLATION_OPTIONS`.

    Returns:
        The run, resolved. Its name is made of what differs from the default; the default itself is
        the run of that name in `utils.experiments.ablations`.
    """
    changes = dict(point)
    if "rate" in changes:
        usual = OPTIMIZERS[changes["optimizer"]].learning_rate
        changes["learning_rate"] = usual * changes.pop("rate")
    changes = {name: value for name, value in changes.items() if value != DEFAULTS.get(name)}
    parts = [
        f"{name}-{value:.4g}" if isinstance(value, float) else f"{name}-{value}"
        for name, value in changes.items()
    ]
    if changes.get("optimizer") in ("adam", "rmsprop"):
        changes["l2"] = 5e-4  # as SGD's, which they are compared with
    name = "-".join(["search", *parts] if parts else ["why-default"]).replace("_", "-")
    run_dir = f"{runs_dir}/{name}-seed{seed}"
    changes |= {"seed": seed, "run_dir": run_dir}
    return RunConfig(**{**ABLATION_OPTIONS, **options, **changes}).resolve()


def open_study(name: str, journal: str | Path) -> optuna.Study:
    """Opens or begins a study.

    Args:
        name: in `SPACES`.
        journal: file of the journal; may be on a disk that several machines share. Delete it after
            a change of `SPACES`: the runs' results are kept, and count at once.

    Returns:
        The study, which maximizes top-1.

    Raises:
        ValueError: unknown name, with the valid ones.
        utils.files.DamagedFile: the journal cannot be read.
    """
    study_names(name)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = Path(journal).absolute()
    journal.parent.mkdir(parents=True, exist_ok=True)
    # Optuna's own lock is a symbolic link, which a killed process leaves behind.
    lock = FileLock(journal.with_name(f".{journal.name}.lock"), fallback_to_soft=False)
    with lock:
        _drop_half_a_line(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal), lock_obj=lock)
    try:
        storage = optuna.storages.JournalStorage(backend)
    except (ValueError, LookupError, AssertionError) as error:  # of lines that are no entries
        remedy = "delete it: the runs' results are kept, and count at once"
        raise DamagedFile(journal, error, remedy) from error
    return optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )


def _drop_half_a_line(journal: Path) -> None:
    """Removes what follows the last whole line; another one after it would make both unreadable."""
    content = journal.read_bytes() if journal.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)


def sweep(
    name: str, journal: str | Path, *, runs_dir: str | Path = "runs", **options: Any
) -> optuna.Study:
    """Works at a study until all of its points have been run.

    Args:
        name: in `SPACES`.
        journal: see `open_study`.
        runs_dir: folder of the runs' folders; shared by all machines, as the journal is.
        **options: see `run_config`.

    Returns:
        The study, with a complete trial for each point. What the journal has but whose result is
        not where the options say is run again; the journal keeps its first value.

    Raises:
        RuntimeError: a run failed; says where its log is. The same call tries it again.
    """
    study = open_study(name, journal)
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    runs = [(point, run_config(point, runs_dir=runs_dir, **options)) for point in points(name)]

    def left() -> list[tuple[dict[str, Any], ResolvedConfig]]:
        tried = _tried(study)
        return [
            (point, config)
            for point, config in runs
            if point not in tried or complete_result(config) is None
        ]

    while found := left():
        for point, config in found:
            with (
                contextlib.suppress(Timeout),  # another process works at it
                locked(Path(runs_dir, f".{config.run_id}.lock"), timeout=0),
            ):
                if (point, config) in left() and (line := _run_point(study, point, config)):
                    print(f"{name}: {line}; {len(left())} left", flush=True)
        if left():
            time.sleep(POLL)
    return study


def _tried(study: optuna.Study) -> list[dict[str, Any]]:
    """The points of a study that have a complete trial."""
    return [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def _run_point(study: optuna.Study, point: dict[str, Any], config: ResolvedConfig) -> str:
    """Runs a point to its end and adds it to the study.

    Returns:
        The point with its top-1; "" if its result was there already.
    """
    wait_for_others(config.run_dir, POLL)  # for what a killed sweep has started
    known = complete_result(config) is not None
    result = run_to_end(config)
    if point not in _tried(study):
        study.add_trial(_trial(study, point, config, result))
    if known:
        return ""
    shown = ", ".join(f"{name} {_short(value)}" for name, value in point.items())
    return f"{shown}: top-1 {result['metrics']['top1']:.1%}"


def _trial(
    study: optuna.Study, point: dict[str, Any], config: ResolvedConfig, result: dict[str, Any]
) -> optuna.trial.FrozenTrial:
    space = SPACES[study.study_name].items()
    return optuna.create_trial(
        params=point,
        distributions={n: optuna.distributions.CategoricalDistribution(v) for n, v in space},
        value=result["metrics"]["top1"],
        intermediate_values={
            epoch: top1
            for epoch, top1 in enumerate(result["history"]["val_top1"])
            if top1 is not None
        },
        user_attrs={"run_id": config.run_id},
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"


def study_table(name: str, *, seeds: Iterable[int] = DEFAULT_SEEDS, **options: Any) -> pd.DataFrame:
    """The results of a study's points, beside the default.

    Args:
        name: in `SPACES`.
        seeds: of the default's runs.
        **options: see `run_config`.

    Returns:
        `pandas.DataFrame`, a row for each point that has been run, in the grid's order: its values
        and `changed`, which names them; top1 and train_top1 (fractions, of seed 0 alone: also in
        the default's row); difference (percentage points of top-1 from the mean of the default's
        runs), default_n (the number of these runs) and uncertainty (one standard deviation of that
        difference, see `utils.experiments.common.uncertainty_of_difference`); parameters, macs and
        run.
    """
    found = [complete_result(run_config({}, seed=seed, **options)) for seed in seeds]
    default = 100 * np.array([result["metrics"]["top1"] for result in found if result])
    rows = []
    for point in points(name):
        result = complete_result(run_config(point, **options))
        if result:
            top1 = result["metrics"]["top1"]
            rows.append(
                {
                    **point,
                    "changed": " × ".join(_short(value) for value in point.values()),
                    "top1": top1,
                    "train_top1": result["history"]["top1"][-1],
                    "difference": 100 * top1 - default.mean(),
                    "default_n": len(default),
                    "uncertainty": uncertainty_of_difference(default),
                    "parameters": result["model"]["parameters"],
                    "macs": result["model"]["macs"],
                    "run": result["run_id"],
                }
            )
    return pd.DataFrame(rows)
