"""What follows the last epoch: evaluations, weights, predictions and the complete result."""

from pathlib import Path
from typing import Any

import keras

from utils.accelerator import Feeder
from utils.data.pipeline import evaluation_batches
from utils.data.plan import Source
from utils.devices import Devices
from utils.files import save_model
from utils.training import results
from utils.training.config import ResolvedConfig
from utils.training.loop.callbacks import reported
from utils.training.loop.network import new_model
from utils.training.optimizers import estimate_batch_norm
from utils.training.predictions import is_kept, keep_predictions, keep_weights


def evaluate_at_the_end(
    config: ResolvedConfig,
    source: Source,
    devices: Devices,
    model: keras.Model,
    feeder: Feeder,
    result: dict[str, Any],
) -> list[Any] | None:
    """Evaluates on training images as they are; with `ema`, also the average of the weights.

    Args:
        config: of the run.
        source: what it reads.
        devices: that it is trained on.
        model: after the last step; its optimizer has the average.
        feeder: of the model.
        result: of the run; gets `metrics_train` and, with `ema`, `metrics_ema`.

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


def finish(
    config: ResolvedConfig,
    source: Source,
    weights: list[Any],
    average: list[Any] | None,
    result: dict[str, Any],
) -> None:
    """Writes the final weights, the predictions and the complete result.

    Args:
        config: of the run.
        source: what it reads.
        weights: of the last step.
        average: of the weights, as `evaluate_at_the_end` returns it.
        result: of the run, which is complete then.
    """
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
    usual = Path("report/weights"), folder
    if is_kept(result) or Path(config.weights_dir) not in usual:
        keep_weights(config)
    result["status"] = "complete"
    results.write_result(config.result_file, result)
