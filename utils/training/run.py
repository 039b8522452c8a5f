"""Trains one network as a `RunConfig` says; may be interrupted and started again at any time.

All state of a run is in its `run_dir`: `config.json`, `checkpoints/` and, at the end,
`model.keras`. The numbers are in the result JSON (see `utils.training.results`).
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from utils import environment
from utils.accelerator import Feeder
from utils.data.manifest import Manifest, check_dataset, load_manifest, manifest_sha256
from utils.data.pipeline import evaluation_batches, training_batches
from utils.data.plan import Source
from utils.devices import Devices, find_devices
from utils.files import DISK_FULL
from utils.models.build import count_macs, count_parameters
from utils.progress import Bar
from utils.training import results, run_folder
from utils.training.config import ResolvedConfig, RunConfig
from utils.training.loop.callbacks import (
    Checkpoints,
    Diverged,
    Measurements,
    Plateau,
    RawWeights,
    Stopped,
    held_back_signals,
)
from utils.training.loop.ending import evaluate_at_the_end, finish
from utils.training.loop.network import (
    compiled_model,
    on_device,
    source_of,
    variables_of,
    with_precision,
)
from utils.training.loop.progress import Progress, summary
from utils.training.loop.tensorboard import tensorboard
from utils.training.run_folder import TrainingError, TrainState

Watch = Callable[[dict[str, Any]], object]


def train(config: RunConfig, watch: Watch | None = None) -> dict[str, Any]:
    """Trains, evaluates and writes everything that a run leaves behind.

    Called again with the same config it continues from the last checkpoint; a complete run is not
    repeated, only its log is printed. Ctrl-C, Jupyter's interrupt and SIGTERM to this process end
    it after the step in progress (during an evaluation, after that), with a checkpoint. Whatever
    ends it at once loses what came after the last checkpoint, which is at most five minutes of
    training and an evaluation old.

    With precision "auto" it prints which one that is: what the run was begun with, for a new one
    `utils.environment.best_precision`. The result names it as if it had been asked for.

    Args:
        config: of the run. The records must exist in `config.data_dir`.
        watch: called with the result as it stands after each epoch, and with a complete one; in
            processes that train along with another, at the end alone.

    Returns:
        The result (see `utils.training.results`).

    Raises:
        TrainingError: `run_dir` holds another run, is in use or cannot be written; the disk is
            full; the loss is no longer finite; or a signal has ended the run.
        ValueError: KERAS_BACKEND is neither tensorflow nor jax; the batch size does not fit the
            devices or the images; or `initial_weights` are of another network.
        utils.data.archives.DatasetError: the records are missing, damaged or of another dataset.
        utils.training.run_folder.CheckpointError: a checkpoint in `run_dir` is of another model.
    """
    environment.check_backend()
    config = config.resolve()
    manifest = _read_manifest(config)
    sha256 = manifest_sha256(manifest)
    devices = _devices_for(config)
    source = source_of(config, manifest)
    _ = source.steps  # refuses a batch larger than the data before anything is written
    folder = Path(config.run_dir)
    if complete := _complete(config, sha256, watch):
        return complete
    lock = run_folder.lock(folder) if devices.is_main else contextlib.nullcontext()
    with _full_disk_named(), lock:
        # While this one waited for its lease, another session may have finished the run.
        if devices.processes == 1 and (complete := _complete(config, sha256, watch)):
            return complete
        config = with_precision(config)
        if devices.is_main:
            run_folder.check_config(folder, config, sha256)
        result = results.new_result(config, manifest)
        with environment.deterministic_ops(), devices.scope():
            weights, average = _fit(config, source, devices, result, watch or (lambda result: None))
        if devices.is_main:
            finish(config, source, weights, average, result)
        devices.broadcast(0)  # the others wait until all is written
    result = results.read_result(config.result_file)
    if watch and not devices.is_main:  # whose epochs are the main process's to show
        watch(result)
    return result


def _fit(
    config: ResolvedConfig,
    source: Source,
    devices: Devices,
    result: dict[str, Any],
    watch: Watch,
) -> tuple[list[Any], list[Any] | None]:
    """Trains what is left of a run, saving as it goes.

    Returns:
        The weights, and with `ema` their average; `result` has the history and the metrics.
    """
    folder, steps = Path(config.run_dir), source.steps
    feeder = Feeder(on_device(config, source.manifest, devices), folder.parent)
    evaluation = feeder(evaluation_batches(source, devices=devices))
    model, metrics = compiled_model(config, source.manifest, devices, steps)
    variables = variables_of(model, metrics)
    state, sums = _restore(config, steps, variables, metrics, devices)
    result["env"]["devices"] = devices.count
    state.go_on(result["env"])
    result["legs"] = state.legs
    result["model"] = {"parameters": count_parameters(model), "macs": count_macs(model)}

    def save() -> None:
        if devices.is_main:
            run_folder.save_checkpoint(folder, variables, state)

    def show(line: Callable[[], str]) -> None:
        if devices.is_main:
            _record(config, result, state)
            Bar.write(line())
            watch(result)

    def end_epoch() -> None:
        show(lambda: results.epoch_line(result, state.epoch - 1))

    show(lambda: summary(config, source, result))
    with (
        _end_explained(config, state, result, devices),
        held_back_signals(devices.processes) as signals,
        Bar(unit=" images", looked_at=devices.is_main) as bar,
    ):
        while state.epoch < config.epochs:
            last = _next_stop(config, model, state)
            steps_per_execution = feeder.steps_per_execution(steps, state.step)
            training = training_batches(
                source, epochs=last, start=state.epoch * steps + state.step, devices=devices
            )
            model.fit(
                feeder(training, steps_per_execution),
                initial_epoch=state.epoch,
                epochs=last,
                steps_per_epoch=(steps - state.step) // steps_per_execution,
                validation_data=evaluation,
                validation_freq=config.evaluated_epochs,
                callbacks=[
                    Measurements(config, state, steps, sums, end_epoch, steps_per_execution),
                    Progress(config, source, state, bar),
                    Checkpoints(config, state, steps, save, signals, devices, steps_per_execution),
                    *_callbacks_of(config, state, devices),
                ],
                shuffle=False,  # the batches come shuffled
                verbose=0,
            )
    average = evaluate_at_the_end(config, source, devices, model, feeder, result)
    return model.get_weights(), average


@contextlib.contextmanager
def _end_explained(
    config: ResolvedConfig, state: TrainState, result: dict[str, Any], devices: Devices
) -> Iterator[None]:
    """Says how a training that was stopped goes on, and what helps against one that diverged."""
    try:
        yield
    except Stopped as stopped:
        raise TrainingError(
            f"Stopped by {stopped} after epoch {state.epoch} and {state.step} steps. All of it "
            f"is saved in {config.run_dir}. To go on: {config.command}"
        ) from None
    except Diverged:
        result["status"] = "failed"
        if devices.is_main:
            _record(config, result, state)
        raise TrainingError(
            f"The loss is no longer finite in epoch {state.epoch + 1}, step {state.step}. Earlier "
            f"epochs are kept in {config.run_dir}. A lower learning rate or another seed or "
            "precision may help; use another run_dir for it."
        ) from None


def _next_stop(config: ResolvedConfig, model: keras.Model, state: TrainState) -> int:
    """The epoch before which `fit` is to stop; the images have one size until then."""
    size, end = config.full_recipe.phase(state.epoch, config.epochs)
    if size:
        model.train_at(size)
    return state.epoch + 1 if state.step else end  # first what was interrupted


def _read_manifest(config: ResolvedConfig) -> Manifest:
    manifest = load_manifest(config.data_dir)
    check_dataset(config.data_dir, manifest, config.dataset, config.data_options)
    return manifest


def _devices_for(config: ResolvedConfig) -> Devices:
    devices = find_devices(config.distribution)
    if config.batch_size % devices.count:
        raise ValueError(
            "batch_size must be a multiple of the number of devices, "
            f"{devices.count}. Received: {config.batch_size}"
        )
    return devices


@contextlib.contextmanager
def _full_disk_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise TrainingError(
            f"{error}. Free disk space there, or choose another run_dir or results_dir. "
            "Checkpoints written before are intact: the same command continues from them."
        ) from error


def _complete(config: ResolvedConfig, sha256: str, watch: Watch | None) -> dict[str, Any] | None:
    """The result of a run if it is complete; then its log is printed."""
    result = results.complete_result(config, sha256)
    if result is None:
        return None
    print(
        f"{config.run_id} is complete; nothing to do. (With another run_dir, or without "
        f"{config.run_dir} and {config.result_file}, it is trained again.) Its log:"
    )
    for epoch in range(config.epochs):
        print(results.epoch_line(result, epoch))
    if watch:
        watch(result)
    return result


def _restore(
    config: ResolvedConfig,
    steps: int,
    variables: dict[str, Any],
    metrics: list[keras.metrics.Metric],
    devices: Devices,
) -> tuple[TrainState, list[tuple[Any, Any]]]:
    """Continues from the newest checkpoint that can be read, if there is any.

    Returns:
        The state, and pairs (variable, array) of what the metrics had added up within an epoch.
    """
    folder = Path(config.run_dir)
    found = run_folder.newest_checkpoint(folder) if devices.is_main else None
    epoch, step = devices.broadcast(*(found or (-1, -1)))
    if epoch < 0:
        return TrainState({name: [] for name in results.history_names(config.task)}), []
    path = run_folder.checkpoint_path(folder, epoch, step)
    arrays, state = run_folder.read_checkpoint(path, variables)
    for name, variable in variables.items():
        variable.assign(arrays[name])
    for metric in metrics:  # `fit` leaves those alone that it has not seen yet
        metric.reset_state()
    part = f" and {step} of {steps} steps" if step else ""
    print(f"Continuing {config.run_id} after epoch {epoch}{part}.")
    sums = [(variables[n], array) for n, array in arrays.items() if n.startswith("metric/")]
    return state, sums


def _record(config: ResolvedConfig, result: dict[str, Any], state: TrainState) -> None:
    """Writes the result as it stands."""
    result["history"] = history = state.history
    if history["loss"]:
        result["seconds"] = {"total": sum(history["seconds"])}
    evaluated = [i for i, loss in enumerate(history["val_loss"]) if loss is not None]
    if evaluated:
        result["metrics"] = {
            **{n: history[f"val_{n}"][evaluated[-1]] for n in results.REPORTED[config.task]},
            "split": config.split,
        }
    results.write_result(config.result_file, result)


def _callbacks_of(
    config: ResolvedConfig, state: TrainState, devices: Devices
) -> list[keras.callbacks.Callback]:
    """What a run has beside its measurements and checkpoints."""
    found: list[keras.callbacks.Callback] = []
    recipe = config.full_recipe
    if recipe.plateau_patience:
        found.append(
            Plateau(
                past_losses=state.history["val_loss"],
                initial_rate=recipe.rate(config.batch_size),
                monitor="val_cross_entropy",
                mode="min",
                patience=recipe.plateau_patience,
            )
        )
    if config.tensorboard and devices.is_main:
        found.append(tensorboard(config))
    if recipe.ema:
        found.append(RawWeights())
    return found
