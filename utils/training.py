"""Trains one network as a `RunConfig` says; may be cut off and started again at any time.

All state of a run is in its `run_dir`: `config.json`, `checkpoints/` and, at the end,
`model.keras`. The numbers are in the result JSON (see `utils.results`).
"""

import contextlib
import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from filelock import FileLock, Timeout

from utils import environment, pipeline, results
from utils.callbacks import REPORTED, EpochLog, Plateau
from utils.checkpoints import CheckpointError, load_checkpoint, replacing, save_checkpoint
from utils.models import build_model, count_macs, count_parameters
from utils.recipes import get_recipe, make_optimizer
from utils.tiny_imagenet import MANIFEST, load_manifest

KEPT_CHECKPOINTS = 2
LARGEST_KEPT_WEIGHTS = 16 * 2**20  # bytes


class TrainingError(RuntimeError):
    """A run cannot start, go on or end; the text says why and what helps."""


def train(config):
    """Trains, evaluates and writes everything that a run leaves behind.

    Started again with the same config it continues from the last checkpoint; a complete run is not
    repeated, only its log is printed.

    Args:
        config: a `RunConfig`. The records must exist in `config.data_dir`.

    Returns:
        The result (see `utils.results`).

    Raises:
        TrainingError: `run_dir` holds another run or is in use, or the loss is no longer finite.
        utils.tiny_imagenet.DatasetError: the records are missing or of another dataset.
    """
    run = _Run(config)
    with run.alone():
        run.claim_folder()
        if run.result["status"] == "complete":
            print(f"{config.run_id} is complete; nothing to do. Its log:")
            for epoch in range(config.epochs):
                print(run.line(epoch))
            return run.result
        run.build()
        run.restore()
        run.fit()
        run.finish()
    return run.result


class _Run:
    """A run in progress: its folder, its model and its result."""

    def __init__(self, config):
        self.config = config
        self.folder = Path(config.run_dir)
        self.manifest = load_manifest(config.data_dir, verify=False)
        if self.manifest["synthetic"] != (config.dataset == "tiny-shapes"):
            raise TrainingError(
                f"{config.data_dir} holds {self.manifest['dataset']}, not {config.dataset}. "
                "Choose another data_dir."
            )
        manifest_file = Path(config.data_dir) / MANIFEST
        self.manifest_sha256 = hashlib.sha256(manifest_file.read_bytes()).hexdigest()
        self.steps = pipeline.steps_per_epoch(self.manifest, config.split, config.batch_size)
        in_results = config.results_dir if not self.manifest["synthetic"] else config.run_dir
        self.result_file = results.result_path(in_results, config.run_id)
        self.result = self._new_result()
        if self.result_file.exists() and (self.folder / "model.keras").exists():
            found = results.read_result(self.result_file)
            if found["status"] == "complete":
                self.result = found

    @contextlib.contextmanager
    def alone(self):
        """Keeps other processes out of the folder; the system opens it again if this one dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "lock", timeout=0):
                yield
        except Timeout:
            raise TrainingError(
                f"Another process is training in {self.folder}. Wait for it, stop it, or use "
                "another run_dir."
            ) from None

    def claim_folder(self):
        """Writes `config.json`, or checks that the folder is of this very run."""
        identity = {**self.config.identity(), "manifest_sha256": self.manifest_sha256}
        path = self.folder / "config.json"
        if not path.exists():
            with replacing(path, "w") as file:
                json.dump(identity, file, indent=1)
            return
        found = json.loads(path.read_text())
        differing = [
            f"{name}: {found.get(name)!r} there, {identity.get(name)!r} now"
            for name in sorted({*found, *identity})
            if found.get(name) != identity.get(name)
        ]
        if differing:
            raise TrainingError(
                f"{self.folder} holds a run with other parameters ({'; '.join(differing)}). "
                "Use the same parameters, another run_dir, or delete that folder."
            )

    def _new_result(self):
        config = self.config
        return {
            "schema": results.SCHEMA,
            "run_id": config.run_id,
            "kind": "train",
            "status": "running",
            "command": config.command,
            "preset": config.preset,
            "recipe": config.recipe,
            "task": "classification",
            "config": {**config.identity(), "recipe_fields": asdict(get_recipe(config.recipe))},
            "seed": config.seed,
            "dataset": {
                "name": self.manifest["dataset"],
                "split": config.split,
                "manifest_sha256": self.manifest_sha256,
                "counts": self.manifest["counts"],
                "synthetic": self.manifest["synthetic"],
            },
            "model": {},
            "history": {name: [] for name in results.HISTORY},
            "metrics": {},
            "seconds": {},
            "env": environment.describe(config.precision),
        }

    def new_model(self):
        """The network of this run with its normalization in front."""
        recipe = get_recipe(self.config.recipe)
        mean, std = (0.0,) * 3, (255.0,) * 3
        if recipe.standardize:
            mean, std = self.manifest["pixel_mean"], self.manifest["pixel_std"]
        return build_model(
            self.config.preset,
            image_size=self.manifest["image_size"],
            num_classes=len(self.manifest["classes"]),
            stem=self.config.stem,
            normalization=(mean, std),
        )

    def build(self):
        """Builds and compiles the model."""
        config = self.config
        on_cpu = not environment.has_gpu()
        keras.utils.set_random_seed(config.seed)
        if keras.backend.backend() == "tensorflow" and on_cpu:
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism()
        keras.config.set_dtype_policy(config.precision)
        self.model = self.new_model()
        keras.config.set_dtype_policy("float32")
        self.model.compile(
            optimizer=make_optimizer(
                get_recipe(config.recipe),
                steps=config.epochs * self.steps,
                batch_size=config.batch_size,
                ema=config.ema,
            ),
            loss=_cross_entropy(config.label_smoothing),
            metrics=[
                keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
                keras.metrics.SparseCategoricalAccuracy("top1"),
                keras.metrics.SparseTopKCategoricalAccuracy(5, "top5"),
            ],
            # XLA makes a CPU step about a quarter slower on TensorFlow; JAX has nothing else.
            jit_compile=not (keras.backend.backend() == "tensorflow" and on_cpu),
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self.result["model"] = {
            "parameters": count_parameters(self.model),
            "macs": count_macs(self.model),
        }

    def restore(self):
        """Continues from the newest checkpoint that can be read, if there is any."""
        checkpoints = self.folder / "checkpoints"
        for half_written in checkpoints.glob(".*"):  # by a killed process
            half_written.unlink()
        for path in sorted(checkpoints.glob("epoch-*.npz"), reverse=True):
            try:
                state = load_checkpoint(path, self.model)
            except CheckpointError as error:
                print(error)
                continue
            self.result["history"] = state["history"]
            self.result["seconds"] = state["seconds"]
            print(f"Continuing {self.config.run_id} after epoch {len(state['history']['loss'])}.")
            return

    def fit(self):
        """Trains the epochs that are left."""
        config = self.config
        recipe = get_recipe(config.recipe)
        cache_dir = self._cache_dir()
        done = len(self.result["history"]["loss"])
        batches = pipeline.training_batches(
            config.data_dir,
            self.manifest,
            batch_size=config.batch_size,
            first_epoch=done,
            epochs=config.epochs,
            seed=config.seed,
            split=config.split,
            augment=recipe.augment,
            cache_dir=cache_dir,
        )
        self.evaluation = pipeline.evaluation_batches(
            config.data_dir,
            self.manifest,
            batch_size=config.batch_size,
            split=config.split,
            cache_dir=cache_dir,
        )
        self.last_weights = self.model.get_weights()
        self.write()
        if done == config.epochs:
            return
        callbacks = [EpochLog(self)]
        if recipe.plateau_patience:
            callbacks.append(
                Plateau(
                    past_losses=self.result["history"]["val_loss"],
                    initial_rate=recipe.learning_rate,
                    monitor="val_cross_entropy",
                    mode="min",
                    patience=recipe.plateau_patience,
                )
            )
        self.model.fit(
            batches,
            epochs=config.epochs,
            initial_epoch=done,
            steps_per_epoch=self.steps,
            validation_data=self.evaluation,
            callbacks=callbacks,
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )

    def _cache_dir(self):
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)  # of a killed process, perhaps half-written
        if self.config.cache == "memory":
            return None
        cache.mkdir()
        return cache

    def finish(self):
        """Writes the final weights, the predictions and the complete result."""
        final = self.new_model()
        if self.config.ema:
            self._finish_average(final)
        final.set_weights(self.model.get_weights())
        _save_model(final, self.folder / "model.keras")
        probabilities, labels = self._predict(final)
        results.save_predictions(
            self.result_file.with_suffix(".npz"),
            probabilities=probabilities,
            labels=labels,
            manifest=self.manifest,
            images=pipeline.encoded_images(
                self.config.data_dir, self.manifest, split=self.config.split
            ),
        )
        if not self.manifest["synthetic"]:
            self._keep_weights()
        self.result["status"] = "complete"
        self.write()
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def _keep_weights(self):
        """Copies the final weights to where they can be committed, unless they are too large."""
        weights = (self.folder / "model.keras").read_bytes()
        if len(weights) > LARGEST_KEPT_WEIGHTS:
            print(
                f"The weights stay in {self.folder}: {len(weights) / 2**20:.0f} MiB are too large"
            )
            return
        with replacing(Path(self.config.weights_dir) / f"{self.config.run_id}.keras") as file:
            file.write(weights)

    def _predict(self, model):
        labels = np.concatenate([labels.numpy() for _, labels in self.evaluation])
        logits = model.predict(self.evaluation, verbose=0)  # labels are passed over
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits)), labels

    def _finish_average(self, final):
        """Evaluates and saves the average of the weights; the model keeps its own."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        measured = self.model.evaluate(self.evaluation, return_dict=True, verbose=0)
        self.result["metrics_ema"] = {
            **{name: float(measured[metric]) for name, metric in REPORTED.items()},
            "split": self.config.split,
        }
        final.set_weights(self.model.get_weights())
        _save_model(final, self.folder / "model_ema.keras")
        self.model.set_weights(self.last_weights)

    def write(self):
        """Writes the result JSON as it stands."""
        history = self.result["history"]
        if history["loss"]:
            self.result["metrics"] = {
                **{name: history[f"val_{name}"][-1] for name in REPORTED},
                "split": self.config.split,
            }
        results.write_result(self.result_file, self.result)

    def line(self, epoch):
        """The log's line about an epoch, counted from 0."""
        at = {name: values[epoch] for name, values in self.result["history"].items()}
        return (
            f"epoch {epoch + 1}/{self.config.epochs} "
            f"loss {at['loss']:.3f} top-1 {at['top1']:.1%} top-5 {at['top5']:.1%} | "
            f"{self.config.split} {at['val_loss']:.3f} {at['val_top1']:.1%} {at['val_top5']:.1%} | "
            f"lr {at['learning_rate']:.2g} | {at['seconds']:.0f} s "
            f"{at['images_per_second']:.0f} images/s {at['peak_rss_mb'] / 1024:.1f} GiB"
        )

    def end_epoch(self, epoch, measured):
        """Records an epoch, prints its line, and writes result and checkpoint."""
        for name, value in measured.items():
            self.result["history"][name].append(value)
        self.result["seconds"]["total"] = sum(self.result["history"]["seconds"])
        print(self.line(epoch), flush=True)
        last = epoch + 1 == self.config.epochs
        if last or (epoch + 1) % self.config.checkpoint_every == 0:
            folder = self.folder / "checkpoints"
            state = {"history": self.result["history"], "seconds": self.result["seconds"]}
            save_checkpoint(folder / f"epoch-{epoch + 1:04d}.npz", self.model, state)
            for old in sorted(folder.glob("epoch-*.npz"))[:-KEPT_CHECKPOINTS]:
                old.unlink()
        if last:
            self.last_weights = self.model.get_weights()  # `fit` may end with their average
        self.write()

    def fail(self, epoch, step):
        """Marks the run as failed and raises."""
        self.result["status"] = "failed"
        self.write()
        raise TrainingError(
            f"The loss is no longer finite in epoch {epoch + 1}, step {step + 1}. Earlier epochs "
            f"are kept in {self.folder}. A lower learning rate or another seed or precision may "
            "help; use another run_dir for it."
        )


def _cross_entropy(label_smoothing):
    """Loss on integer labels and logits, with a share of the target spread over all classes."""
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed(labels, logits):
        exact = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        spread = -keras.ops.mean(keras.ops.log_softmax(logits), axis=-1)
        return (1 - label_smoothing) * exact + label_smoothing * spread

    return smoothed


def _save_model(model, path):
    temporary = path.with_name(f".{path.name}")
    model.save(temporary)
    temporary.replace(path)
