"""Trains one network as a `RunConfig` says; may be cut off and started again at any time.

All state of a run is in its `run_dir`: `config.json`, `checkpoints/` and, at the end,
`model.keras`. The numbers are in the result JSON (see `utils.training.results`).
"""

import contextlib
from pathlib import Path

import keras

from utils import environment
from utils.data import pipeline
from utils.data.manifest import load_manifest, manifest_sha256, steps_per_epoch
from utils.devices import find_devices
from utils.files import save_model
from utils.models.build import build_model, count_macs, count_parameters, start_from
from utils.models.fast_layers import accelerate
from utils.training import predictions, results
from utils.training.callbacks import Plateau, RunLog, reported, stop_signals
from utils.training.checkpoints import (
    DamagedCheckpoint,
    checkpoint_path,
    checkpoints_in,
    read_checkpoint,
    save_checkpoint,
)
from utils.training.optimizers import compile_model
from utils.training.predictions import keep_predictions, keep_weights
from utils.training.run_folder import TrainingError, claim, used_alone


def train(config):
    """Trains, evaluates and writes everything that a run leaves behind.

    Started again with the same config it continues from the last checkpoint; a complete run is not
    repeated, only its log is printed. SIGTERM and Ctrl-C end it after the step in progress (during
    an evaluation, after that), with a checkpoint.

    Args:
        config: a `RunConfig`. The records must exist in `config.data_dir`.

    Returns:
        The result (see `utils.training.results`).

    Raises:
        TrainingError: `run_dir` holds another run, is in use or cannot be written; the loss is no
            longer finite; or a signal has ended the run.
        utils.data.archives.DatasetError: the records are missing, damaged or of another dataset.
        utils.training.checkpoints.CheckpointError: a checkpoint in `run_dir` is of another model.
    """
    config = config.resolve()
    run = _Run(config)
    if run.result["status"] == "complete":
        print(
            f"{config.run_id} is complete; nothing to do. (Without {run.result_file}, or with "
            "another run_dir, it is trained again.) Its log:"
        )
        for epoch in range(config.epochs):
            print(results.epoch_line(run.result, epoch))
        return run.result
    try:
        with used_alone(run.folder) if run.leads else contextlib.nullcontext():
            if run.leads:
                claim(run.folder, config, run.manifest_sha256)
            with run.devices.scope():
                run.build()
                run.restore()
                run.fit()
                run.evaluate_average()
            if run.leads:
                run.finish()
            run.devices.agree(0)  # the others wait until all is written
            if not run.leads:
                run.result = results.read_result(run.result_file)
    except OSError as error:
        raise TrainingError(
            f"{error}. Make room there, or choose another run_dir or results_dir. Checkpoints "
            "written before are intact: the same command continues from them."
        ) from error
    return run.result


class _Run:
    """A run in progress: its folder, its model and its result."""

    def __init__(self, config):
        self.config = config
        self.folder = Path(config.run_dir)
        self.manifest = load_manifest(config.data_dir)
        if self.manifest["synthetic"] != (config.dataset == "tiny-shapes"):
            raise TrainingError(
                f"{config.data_dir} holds {self.manifest['dataset']}, not {config.dataset}. "
                "Choose another data_dir."
            )
        self.manifest_sha256 = manifest_sha256(self.manifest)
        self.steps = steps_per_epoch(
            self.manifest, config.split, config.batch_size, config.fraction
        )
        self.checkpoint_steps = config.checkpoint_steps(self.steps)
        self.devices = find_devices(config.distribution)
        if config.batch_size % self.devices.count:
            raise ValueError(
                "batch_size must be a multiple of the number of devices, "
                f"{self.devices.count}. Received: {config.batch_size}"
            )
        self.leads = self.devices.process == 0
        self.result_file = config.result_file
        self.result = results.complete_result(config, self.manifest_sha256)
        if self.result is None:
            self.result = results.new_result(config, self.manifest, self.manifest_sha256)
            self.result["env"]["devices"] = self.devices.count

    def new_model(self):
        """The network of this run with its normalization in front."""
        mean, std = (0.0,) * 3, (255.0,) * 3
        if self.config.full_recipe.standardize:
            mean, std = self.manifest["pixel_mean"], self.manifest["pixel_std"]
        model = build_model(
            self.config.network,
            image_size=self.manifest["image_size"],
            num_classes=len(self.manifest["classes"]),
            stem=self.config.stem,
            normalization=(mean, std),
            task=self.config.task,
            name=self.config.preset,
        )
        if self.config.batch_norm_momentum is not None:
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = self.config.batch_norm_momentum
        return model

    def build(self):
        """Builds and compiles the model."""
        config = self.config
        plain_tensorflow = keras.backend.backend() == "tensorflow" and not environment.has_gpu()
        keras.utils.set_random_seed(config.seed)
        if plain_tensorflow:
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism()
        keras.config.set_dtype_policy(config.precision)
        self.model = self.new_model()
        if config.initial_weights:
            kept = start_from(self.model, config.initial_weights)
            new = f"; new: {', '.join(kept)}" if kept else ""
            print(f"Starting from {config.initial_weights}{new}.")
        as_they_are = environment.has_gpu() or self.devices.mirrored or config.eager
        if config.fast_layers and not as_they_are:
            self.model = accelerate(self.model)
        keras.config.set_dtype_policy("float32")
        self.devices.synchronize_batch_norm(self.model)
        self.metrics = compile_model(
            self.model,
            config.full_recipe,
            steps=config.epochs * self.steps,
            batch_size=config.batch_size,
            task=config.task,
            num_classes=len(self.manifest["classes"]),
            label_smoothing=config.label_smoothing,
            ema=config.ema,
            # XLA makes a CPU step slower on TensorFlow, and cannot mirror.
            jit_compile=not (plain_tensorflow or self.devices.mirrored),
            run_eagerly=config.eager,
        )
        self.result["model"] = {
            "parameters": count_parameters(self.model),
            "macs": count_macs(self.model),
        }
        sums = [variable for metric in self.metrics for variable in metric.variables]
        self.variables = {
            # A random state's path would have a number that differs between processes.
            **{f"model/{x.name}/{v.name}": v for x in self.model.layers for v in x.variables},
            **{f"optimizer/{i:04d}": v for i, v in enumerate(self.model.optimizer.variables)},
            **{f"metric/{i}": v for i, v in enumerate(sums)},
        }

    def restore(self):
        """Continues from the newest checkpoint that can be read, if there is any."""
        folder = self.folder / "checkpoints"
        position, read = (-1, -1), None
        if self.leads:
            for half_written in folder.glob(".*"):  # by a killed process
                half_written.unlink()
            for path in checkpoints_in(folder):
                try:
                    read = read_checkpoint(path, self.variables)
                except DamagedCheckpoint as error:
                    print(f"{error} Trying the one before it.")
                    continue
                position = read[1]["position"]
                break
        position = self.devices.agree(*position)
        self.position, self.elapsed, self.sums = (0, 0), 0.0, {}
        if position[0] < 0:
            return
        arrays, state = read or read_checkpoint(checkpoint_path(folder, *position), self.variables)
        for name, variable in self.variables.items():
            variable.assign(arrays[name])
        for metric in self.metrics:  # `fit` leaves those alone that it has not seen yet
            metric.reset_state()
        self.position, self.elapsed = position, state["elapsed"]
        self.sums = {name: array for name, array in arrays.items() if name.startswith("metric/")}
        self.result["history"] = state["history"]
        self.result["seconds"] = state["seconds"]
        epoch, step = position
        steps = f" and {step} of {self.steps} steps" if step else ""
        print(f"Continuing {self.config.run_id} after epoch {epoch}{steps}.")

    def restore_sums(self):
        """Brings back what the metrics had added up; `fit` begins every epoch at zero."""
        for name, array in self.sums.items():
            self.variables[name].assign(array)

    def fit(self):
        """Trains the epochs that are left."""
        config = self.config
        self.evaluation = pipeline.evaluation_batches(
            config.data_dir,
            self.manifest,
            batch_size=config.batch_size,
            split=config.split,
            task=config.task,
            whole_batches=self.devices.count > 1,
        )
        self.write()
        epoch, step = self.position
        with (
            pipeline.reading_records(config.data_dir),
            stop_signals()
            if self.devices.processes == 1
            else contextlib.nullcontext([]) as self.signals,
        ):
            if step:  # the rest of an epoch
                self._fit(epoch, epoch + 1, step)
                epoch += 1
            if epoch < config.epochs:
                self._fit(epoch, config.epochs, 0)

    def _fit(self, epoch, epochs, step):
        config = self.config
        recipe = config.full_recipe
        batches = pipeline.training_batches(
            config.data_dir,
            self.manifest,
            batch_size=config.batch_size,
            first_epoch=epoch,
            first_step=step,
            epochs=epochs,
            seed=config.seed,
            split=config.split,
            fraction=config.fraction,
            augment=recipe.augment,
            task=config.task,
            record_order=config.record_order,
            shuffle_window=config.shuffle_window,
        )
        callbacks = [RunLog(self, first_step=step)]
        if recipe.plateau_patience:
            callbacks.append(
                Plateau(
                    past_losses=self.result["history"]["val_loss"],
                    initial_rate=recipe.rate(config.batch_size),
                    monitor="val_cross_entropy",
                    mode="min",
                    patience=recipe.plateau_patience,
                )
            )
        if config.tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(self.folder / "tensorboard"))
        self.model.fit(
            batches,
            epochs=epochs,
            initial_epoch=epoch,
            steps_per_epoch=self.steps - step,
            validation_data=self.evaluation,
            callbacks=callbacks,
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )
        if config.ema:  # `fit` ends with the average in the model
            self.model.set_weights(self.last_weights)

    def evaluate_average(self):
        """Evaluates the average of the weights; the model keeps its own."""
        if not self.config.ema:
            return
        last = self.model.get_weights()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        measured = self.model.evaluate(self.evaluation, return_dict=True, verbose=0)
        self.result["metrics_ema"] = {
            **reported(measured, self.config.task),
            "split": self.config.split,
        }
        self.average_weights = self.model.get_weights()
        self.model.set_weights(last)

    def finish(self):
        """Writes the final weights, the predictions and the complete result."""
        final = self.new_model()
        if self.config.ema:
            final.set_weights(self.average_weights)
            save_model(final, self.folder / "model_ema.keras")
        final.set_weights(self.model.get_weights())
        save_model(final, self.folder / "model.keras")
        if self.config.task == "classification":
            self.result["metrics_flip"] = keep_predictions(
                self.config, final, self.evaluation, self.manifest, self.result
            )
        if predictions.is_kept(self.result):
            keep_weights(self.config)
        self.result["status"] = "complete"
        self.write()

    def write(self):
        """Writes the result JSON as it stands."""
        if not self.leads:
            return
        history = self.result["history"]
        if history["loss"]:
            self.result["metrics"] = {
                **{n: history[f"val_{n}"][-1] for n in results.REPORTED[self.config.task]},
                "split": self.config.split,
            }
        results.write_result(self.result_file, self.result)

    def is_due(self, epoch, step):
        """Whether to save after a step; its epoch's end is not meant."""
        at = epoch * self.steps + step
        return step < self.steps and bool(self.signals or at % self.checkpoint_steps == 0)

    def end_step(self, epoch, step, elapsed):
        """Writes a checkpoint within an epoch, and ends the run if a signal says so."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # between steps the weights are elsewhere
        self._save(epoch, step, elapsed)
        self._stop_if_asked(epoch, step)

    def end_epoch(self, epoch, measured):
        """Records an epoch, prints its line, and writes result and checkpoint."""
        for name, value in measured.items():
            self.result["history"][name].append(value)
        self.result["seconds"]["total"] = sum(self.result["history"]["seconds"])
        if self.leads:
            print(results.epoch_line(self.result, epoch), flush=True)
        last = epoch + 1 == self.config.epochs
        due = (epoch + 1) * self.steps % self.checkpoint_steps == 0
        if last or due or self.signals:
            self._save(epoch + 1)
        if self.config.ema:
            self.last_weights = self.model.get_weights()
        self.write()
        if not last:
            self._stop_if_asked(epoch + 1)

    def _save(self, epoch, step=0, elapsed=0.0):
        if self.leads:
            state = {
                "position": (epoch, step),
                "elapsed": elapsed,
                "history": self.result["history"],
                "seconds": self.result["seconds"],
            }
            save_checkpoint(self.folder / "checkpoints", epoch, step, self.variables, state)

    def _stop_if_asked(self, epoch, step=0):
        if self.signals:
            raise TrainingError(
                f"Stopped by {self.signals[0]} after epoch {epoch} and {step} steps. All of it is "
                f"saved in {self.folder}. To go on: {self.config.command}"
            )

    def fail(self, epoch, step):
        """Marks the run as failed and raises."""
        self.result["status"] = "failed"
        self.write()
        raise TrainingError(
            f"The loss is no longer finite in epoch {epoch + 1}, step {step}. Earlier epochs "
            f"are kept in {self.folder}. A lower learning rate or another seed or precision may "
            "help; use another run_dir for it."
        )
