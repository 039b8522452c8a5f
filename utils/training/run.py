"""Trains one network as a `RunConfig` says; may be cut off and started again at any time.

All state of a run is in its `run_dir`: `config.json`, `checkpoints/` and, at the end,
`model.keras`. The numbers are in the result JSON (see `utils.training.results`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from utils import environment
from utils.accelerator import Feeder, OnDevice, keeps_images
from utils.data.manifest import Manifest, dataset_of, load_manifest, manifest_sha256
from utils.data.pipeline import Source, evaluation_batches, training_batches
from utils.devices import Devices, find_devices
from utils.files import DISK_FULL, save_model
from utils.models.build import Resized, build_model, count_macs, count_parameters, start_from
from utils.models.fast_layers import accelerate
from utils.training import results, run_folder
from utils.training.callbacks import (
    Checkpoints,
    Diverged,
    Measurements,
    Plateau,
    RawWeights,
    Stopped,
    held_back_signals,
    reported,
)
from utils.training.config import ResolvedConfig, RunConfig
from utils.training.optimizers import compile_model, estimate_batch_norm
from utils.training.predictions import is_kept, keep_predictions, keep_weights
from utils.training.run_folder import TrainingError, TrainState


def train(config: RunConfig) -> dict[str, Any]:
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

    Returns:
        The result (see `utils.training.results`).

    Raises:
        TrainingError: `run_dir` holds another run, is in use or cannot be written; the disk is
            full; the loss is no longer finite; or a signal has ended the run.
        utils.data.archives.DatasetError: the records are missing, damaged or of another dataset.
        utils.training.run_folder.CheckpointError: a checkpoint in `run_dir` is of another model.
    """
    config = config.resolve()
    manifest = _read_manifest(config)
    sha256 = manifest_sha256(manifest)
    devices = _devices_for(config)
    source = source_of(config, manifest)
    steps = source.steps  # refuses a batch larger than the data before anything is written
    folder = Path(config.run_dir)
    if complete := results.complete_result(config, sha256):
        _print_log(config, complete)
        return complete
    config = _with_precision(config)
    lock = run_folder.lock(folder) if devices.is_main else contextlib.nullcontext()
    with _full_disk_named(), lock:
        if devices.is_main:
            run_folder.check_config(folder, config, sha256)
        result = results.new_result(config, manifest, sha256)
        with environment.deterministic_ops(), devices.scope():
            weights, average = _fit(config, source, steps, devices, result)
        if devices.is_main:
            _finish(config, source, weights, average, result)
        devices.broadcast(0)  # the others wait until all is written
    return results.read_result(config.result_file)


def _with_precision(config: ResolvedConfig) -> ResolvedConfig:
    """The run with the precision that "auto" means."""
    if config.precision != "auto":
        return config
    begun = run_folder.begun_precision(config.run_dir)
    fast_layers = config.fast_layers and not config.eager
    precision = begun or environment.best_precision(fast_layers)
    print(f"precision auto: {precision}, " + ("as it was begun" if begun else "the fastest here"))
    return dataclasses.replace(config, precision=precision)


def _fit(
    config: ResolvedConfig,
    source: Source,
    steps: int,
    devices: Devices,
    result: dict[str, Any],
) -> tuple[list[Any], list[Any] | None]:
    """Trains what is left of a run, saving as it goes.

    Returns:
        The weights, and with `ema` their average; `result` has the history and the metrics.
    """
    folder = Path(config.run_dir)
    feeder = Feeder(_on_device(config, devices), folder.parent)
    evaluation = feeder(evaluation_batches(source, devices=devices))
    model, metrics = compiled_model(config, source.manifest, devices, steps)
    variables = _by_name(model, metrics)
    state, sums = _restore(config, steps, variables, metrics, devices)
    result["env"]["devices"] = devices.count
    result["model"] = {"parameters": count_parameters(model), "macs": count_macs(model)}

    def save() -> None:
        if devices.is_main:
            run_folder.save_checkpoint(folder, variables, state)

    def end_epoch() -> None:
        if devices.is_main:
            _record(config, result, state)
            print(results.epoch_line(result, state.epoch - 1), flush=True)

    if devices.is_main:
        _record(config, result, state)
    try:
        with held_back_signals(devices.processes) as signals:
            while state.epoch < config.epochs:
                last = _next_stop(config, model, state)
                together = feeder.together(steps, state.step)
                training = training_batches(
                    source, epochs=last, start=state.epoch * steps + state.step, devices=devices
                )
                model.fit(
                    feeder(training, together),
                    initial_epoch=state.epoch,
                    epochs=last,
                    steps_per_epoch=(steps - state.step) // together,
                    validation_data=evaluation,
                    validation_freq=config.evaluated_epochs,
                    callbacks=[
                        Measurements(config, state, steps, sums, end_epoch, together),
                        Checkpoints(config, state, steps, save, signals, devices, together),
                        *_callbacks_of(config, state),
                    ],
                    shuffle=False,  # the batches come shuffled
                    verbose=0,
                )
    except Stopped as stopped:
        raise TrainingError(
            f"Stopped by {stopped} after epoch {state.epoch} and {state.step} steps. All of it "
            f"is saved in {folder}. To go on: {config.command}"
        ) from None
    except Diverged:
        result["status"] = "failed"
        if devices.is_main:
            _record(config, result, state)
        raise TrainingError(
            f"The loss is no longer finite in epoch {state.epoch + 1}, step {state.step}. Earlier "
            f"epochs are kept in {folder}. A lower learning rate or another seed or precision may "
            "help; use another run_dir for it."
        ) from None
    average = _evaluate_at_the_end(config, source, devices, model, feeder, result)
    return model.get_weights(), average


def _next_stop(config: ResolvedConfig, model: keras.Model, state: TrainState) -> int:
    """The epoch before which `fit` is to stop; the images have one size until then."""
    size, end = config.full_recipe.phase(state.epoch, config.epochs)
    if size:
        model.train_at(size)
    return state.epoch + 1 if state.step else end  # first what was cut off


def new_model(
    config: ResolvedConfig, manifest: Manifest, precision: str = "float32"
) -> keras.Model:
    """The network of a run with its normalization in front.

    Args:
        config: of the run.
        manifest: of its dataset.
        precision: Keras dtype policy.
    """
    mean, std = (0.0,) * 3, (255.0,) * 3
    if config.full_recipe.standardize:
        mean, std = manifest["pixel_mean"], manifest["pixel_std"]
    with environment.dtype_policy(precision):
        model = build_model(
            config.network,
            image_size=manifest["image_size"],
            num_classes=len(manifest["classes"]),
            stem=config.stem,
            normalization=(mean, std),
            task=config.task,
            name=config.preset,
        )
    if config.batch_norm_momentum is not None:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = config.batch_norm_momentum
    return model


def compiled_model(
    config: ResolvedConfig, manifest: Manifest, devices: Devices, steps: int
) -> tuple[keras.Model, list[keras.metrics.Metric]]:
    """Builds and compiles the model of a run.

    Args:
        config: of the run.
        manifest: of its dataset.
        devices: that it is trained on.
        steps: per epoch.

    Returns:
        (model, its metrics).
    """
    keras.utils.set_random_seed(config.seed)
    model = new_model(config, manifest, config.precision)
    if config.initial_weights:
        kept = start_from(model, config.initial_weights)
        new = f"; new: {', '.join(kept)}" if kept else ""
        print(f"Starting from {config.initial_weights}{new}.")
    on_cpu = not (environment.has_gpu() or devices.mirrored)
    if config.fast_layers and on_cpu and not config.eager:
        with environment.dtype_policy(config.precision):
            model = accelerate(model)
    if _on_device(config, devices):
        model = OnDevice(model, config.batch_size)
    elif config.full_recipe.sizes:
        model = Resized(model)
    devices.synchronize_batch_norm(model)
    # XLA makes a CPU step slower on TensorFlow, and cannot mirror.
    xla = not (devices.mirrored or environment.on_tensorflow_cpu())
    metrics = compile_model(
        model,
        config.full_recipe,
        steps=config.epochs * steps,
        batch_size=config.batch_size,
        task=config.task,
        num_classes=len(manifest["classes"]),
        jit_compile=xla,
        run_eagerly=config.eager,
    )
    return model, metrics


def _on_device(config: ResolvedConfig, devices: Devices) -> bool:
    in_memory = config.dataset != "imagenet"
    return in_memory and keeps_images(config.task, devices) and not config.eager


def _read_manifest(config: ResolvedConfig) -> Manifest:
    manifest = load_manifest(config.data_dir)
    if dataset_of(manifest) != config.dataset:
        raise TrainingError(
            f"{config.data_dir} holds {manifest['dataset']}, not {config.dataset}. "
            "Choose another data_dir."
        )
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


def _print_log(config: ResolvedConfig, result: dict[str, Any]) -> None:
    print(
        f"{config.run_id} is complete; nothing to do. (Without {config.result_file}, or with "
        "another run_dir, it is trained again.) Its log:"
    )
    for epoch in range(config.epochs):
        print(results.epoch_line(result, epoch))


def _by_name(model: keras.Model, metrics: list[keras.metrics.Metric]) -> dict[str, Any]:
    """All that changes while a run trains, by names that do not differ between processes."""
    sums = [variable for metric in metrics for variable in metric.variables]
    return {
        # A random state's path would have a number that differs between processes.
        **{f"model/{x.name}/{v.name}": v for x in model.layers for v in x.variables},
        **{f"optimizer/{i:04d}": v for i, v in enumerate(model.optimizer.variables)},
        **{f"metric/{i}": v for i, v in enumerate(sums)},
    }


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


def source_of(config: ResolvedConfig, manifest: Manifest) -> Source:
    """What a run reads.

    Args:
        config: of the run.
        manifest: of its dataset.
    """
    return Source(
        config.data_dir,
        manifest,
        batch_size=config.batch_size,
        split=config.split,
        task=config.task,
        fraction=config.fraction,
        record_order=config.record_order,
        augment=config.full_recipe.augment,
        flip=config.full_recipe.flip,
        seed=config.seed,
    )


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


def _callbacks_of(config: ResolvedConfig, state: TrainState) -> list[keras.callbacks.Callback]:
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
    if config.tensorboard:
        found.append(keras.callbacks.TensorBoard(Path(config.run_dir, "tensorboard")))
    if recipe.ema:
        found.append(RawWeights())
    return found


def _evaluate_at_the_end(
    config: ResolvedConfig,
    source: Source,
    devices: Devices,
    model: keras.Model,
    feeder: Feeder,
    result: dict[str, Any],
) -> list[Any] | None:
    """Evaluates on training images as they are; with `ema`, also the average of the weights.

    Returns:
        That average, with BatchNorm's statistics as they are with it; the model keeps its weights.
    """
    clean = evaluation_batches(source, on_train=True, devices=devices)
    measured = model.evaluate(feeder(clean), return_dict=True, verbose=0)
    result["metrics_train"] = reported(measured, config.task)
    if not config.full_recipe.ema:
        return None
    last = model.get_weights()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged = new_model(config, source.manifest, config.precision)
    averaged.set_weights(model.get_weights())
    estimate_batch_norm(averaged, evaluation_batches(source, on_train=True))
    average = averaged.get_weights()
    model.set_weights(average)
    evaluation = feeder(evaluation_batches(source, devices=devices))
    measured = model.evaluate(evaluation, return_dict=True, verbose=0)
    result["metrics_ema"] = {**reported(measured, config.task), "split": config.split}
    model.set_weights(last)
    return average


def _finish(
    config: ResolvedConfig,
    source: Source,
    weights: list[Any],
    average: list[Any] | None,
    result: dict[str, Any],
) -> None:
    """Writes the final weights, the predictions and the complete result."""
    folder = Path(config.run_dir)
    final = new_model(config, source.manifest)
    if average is not None:
        final.set_weights(average)
        save_model(final, folder / "model_ema.keras")
    final.set_weights(weights)
    save_model(final, folder / "model.keras")
    if config.task == "classification":
        measured = final
        if config.precision != "float32":  # what is kept is of the network as it was evaluated
            measured = new_model(config, source.manifest, config.precision)
            measured.set_weights(weights)
        result["metrics_flip"] = keep_predictions(config, measured, source, result)
    if is_kept(result):
        keep_weights(config)
    result["status"] = "complete"
    results.write_result(config.result_file, result)
