"""Sweeps over what a run can be changed in: Optuna picks the points, papermill runs each.

A sweep may be killed at any time, and several machines that see the same folders may work at one:
the study is a journal file, and a trial whose process is gone is put in line again. Its run then
goes on from its last checkpoint.
"""

import contextlib
import datetime
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from utils.experiments import processes
from utils.experiments.common import COMMON, DEFAULT_SEEDS, noise_of
from utils.experiments.processes import complete_result
from utils.training import results
from utils.training.config import RunConfig
from utils.training.run_folder import in_use

with warnings.catch_warnings():  # in a notebook tqdm, which optuna imports, misses ipywidgets
    warnings.filterwarnings("ignore", message="IProgress not found")
    import optuna
    from optuna.trial import TrialState

# Usual learning rates with these networks and the schedule of `tuned`; a sweep tries a third and
# three times of each.
USUAL_RATES = {"sgd": 0.5, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3}

# name of the study: what is tried. Lists make a grid, each value with each of the others; between
# two numbers Optuna's TPE goes where it expects most.
SPACES = {
    "down_sampling": {
        "down_sampling": ["max_pool", "max_pool_3x3", "average_pool", "convolution"],
    },
    "activation": {"activation": ["relu", "silu", "gelu"]},
    "dropout": {"dropout": [0.0, 0.2, 0.5]},
    "optimizer": {"optimizer": [*USUAL_RATES], "rate": [1 / 3, 1, 3]},
    "size": {"width": [1 / 8, 1 / 4, 3 / 8], "blocks": [1, 2, 4]},
    "values": {"learning_rate": (0.1, 1.0), "l2": (1e-4, 2e-3)},
}

# What the preset `simple` and the recipe `tuned` have anyway.
DEFAULTS = {
    **{"down_sampling": "max_pool", "activation": "relu", "dropout": 0.0},
    **{"optimizer": "sgd", "learning_rate": 0.5, "width": 1 / 4, "blocks": 1},
}

POLL = 1.0  # seconds between looks at a result


def points(name):
    """All points of a grid, as dicts."""
    space = SPACES[name]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def run_config(point, *, seed=0, runs_dir="runs", **options):
    """The run that a point of a space stands for.

    Args:
        point: dict by the names in a space.
        seed: of the run.
        runs_dir: folder of the runs' folders.
        **options: fields of `RunConfig` in place of those of `utils.experiments.common.COMMON`.

    Returns:
        A `RunConfig`. Its name is made of what differs from the default; the default itself is the
        run of that name in `utils.experiments.ablations`.
    """
    changes = dict(point)
    if "rate" in changes:
        changes["learning_rate"] = USUAL_RATES[changes["optimizer"]] * changes.pop("rate")
    changes = {name: value for name, value in changes.items() if value != DEFAULTS.get(name)}
    parts = [
        f"{name}-{value:.4g}" if isinstance(value, float) else f"{name}-{value}"
        for name, value in changes.items()
    ]
    if changes.get("optimizer") == "adamw":
        changes["l2"] = 0.0  # it has a weight decay of its own
    name = "-".join(["search", *parts] if parts else ["why-default"]).replace("_", "-")
    run_dir = f"{runs_dir}/{name}-seed{seed}"
    return RunConfig(**{**COMMON, **options, **changes, "seed": seed, "run_dir": run_dir})


def open_study(name, journal):
    """Opens or begins a study.

    Args:
        name: in `SPACES`.
        journal: file of the journal; may be on a disk that several machines share.

    Returns:
        An `optuna.Study` that maximizes top-1.

    Raises:
        ValueError: unknown name, with the valid ones.
    """
    if name not in SPACES:
        raise ValueError(f"study must be one of {', '.join(SPACES)}. Received: {name!r}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    Path(journal).parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.create_study(
        study_name=name,
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True),
        # A grid is a comparison: all of its runs go to the end.
        pruner=optuna.pruners.NopPruner()
        if _is_grid(name)
        else optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        direction="maximize",
        load_if_exists=True,
    )


def sweep(name, journal, *, trials=12, runs_dir="runs", **options):
    """Works at a study until nothing is left of it.

    Args:
        name: in `SPACES`.
        journal: see `open_study`.
        trials: how many a space that is no grid gets, those of earlier sweeps among them.
        runs_dir: folder of the runs' folders; shared by all machines, as the journal is.
        **options: see `run_config`.

    Returns:
        The `optuna.Study`.

    Raises:
        RuntimeError: a run failed; says where its log is. The same call tries it again.
    """
    study = open_study(name, journal)

    def objective(trial):
        point = {
            parameter: trial.suggest_categorical(parameter, values)
            if isinstance(values, list)
            else trial.suggest_float(parameter, *values, log=True)
            for parameter, values in SPACES[name].items()
        }
        config = run_config(point, runs_dir=runs_dir, **options)
        with FileLock(_lock(runs_dir, study, trial.number)):
            trial.set_user_attr("run_id", config.run_id)
            return _run(trial, config)

    while True:
        _line_up(study, runs_dir)
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        waiting, running = (states.count(s) for s in (TrialState.WAITING, TrialState.RUNNING))
        begun = len(states) - waiting - states.count(TrialState.FAIL)
        if waiting or (begun < trials and not _is_grid(name)):
            study.optimize(objective, n_trials=1, callbacks=[_say])
        elif running:
            time.sleep(5)  # another machine is at it
        else:
            return study


def _is_grid(name):
    return all(isinstance(values, list) for values in SPACES[name].values())


def _lock(runs_dir, study, number):
    """File that is locked as long as the process of a trial lives."""
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    return Path(runs_dir, f".{study.study_name}-{number}.lock")


def _line_up(study, runs_dir):
    """Puts in line what nobody is at: trials whose process is gone, and points not yet tried."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        begun = datetime.datetime.now() - trial.datetime_start > datetime.timedelta(minutes=1)
        if not (trial.user_attrs or begun):
            continue  # it is just about to take its lock
        with (
            contextlib.suppress(Timeout, optuna.exceptions.UpdateFinishedTrialError, ValueError),
            FileLock(_lock(runs_dir, study, trial.number), timeout=0),
        ):
            study.tell(trial.number, state=TrialState.FAIL)
            if not _is_grid(study.study_name):
                study.enqueue_trial(trial.params)
    if _is_grid(study.study_name):
        trials = [trial for trial in study.get_trials() if trial.state != TrialState.FAIL]
        known = [trial.system_attrs.get("fixed_params") for trial in trials]
        for point in points(study.study_name):
            if point not in known:
                study.enqueue_trial(point)


def _run(trial, config):
    """Runs a trial in a process of its own, unless its result is there; returns its top-1."""
    file = config.result_file
    process, reported = None, 0
    try:
        while True:
            ended = process is not None and process.poll() is not None
            result = results.read_result(file) if file.exists() else {"status": "", "history": {}}
            for top1 in result["history"].get("val_top1", [])[reported:]:
                trial.report(top1, reported)
                reported += 1
            if result["status"] == "complete":
                if process:
                    process.wait()
                return result["metrics"]["top1"]
            if ended:
                raise processes.failed(config)
            if reported and trial.should_prune():
                raise optuna.TrialPruned
            if process is None and not in_use(config.run_dir):  # by what a killed sweep has left
                process = processes.start(config)
            time.sleep(POLL)
    finally:
        if process:
            processes.stop(process)


def _say(study, trial):
    """Prints a line when a trial has ended."""
    states = [other.state for other in study.get_trials(deepcopy=False)]
    what = ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())
    complete = trial.state == TrialState.COMPLETE
    said = f"top-1 {trial.value:.1%}" if complete else trial.state.name.lower()
    left = states.count(TrialState.WAITING)
    print(f"{study.study_name}: {what}: {said}; {left} in line", flush=True)


def _shown(value):
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"


def table(name, *, seeds=DEFAULT_SEEDS, **options):
    """What a grid's points came to, beside the default.

    Args:
        name: in `SPACES`.
        seeds: of the default's runs, for the noise.
        **options: see `run_config`.

    Returns:
        `pandas.DataFrame`, a row a point that has been run, in the grid's order: its values and
        `changed`, which names them; top1 and train_top1 (fractions); points (percentage points of
        top-1 against the mean of the default's seeds) and uncertainty (one standard deviation of
        that difference); parameters, and run.
    """
    default = [complete_result(run_config({}, seed=seed, **options)) for seed in seeds]
    default = 100 * np.array([result["metrics"]["top1"] for result in default if result])
    rows = []
    for point in points(name):
        result = complete_result(run_config(point, **options))
        if result:
            top1 = result["metrics"]["top1"]
            rows.append(
                {
                    **point,
                    "changed": " × ".join(_shown(value) for value in point.values()),
                    "top1": top1,
                    "train_top1": result["history"]["top1"][-1],
                    "points": 100 * top1 - default.mean(),
                    "uncertainty": noise_of(default),
                    "parameters": result["model"]["parameters"],
                    "run": result["run_id"],
                }
            )
    return pd.DataFrame(rows)
