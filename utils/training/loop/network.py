"""Builds what a run's config describes: its images, its compiled network and all variables."""

import dataclasses
from typing import Any

import keras

from utils import environment
from utils.accelerator import OnDevice, keeps_images
from utils.data.manifest import Manifest
from utils.data.plan import Source
from utils.devices import Devices
from utils.models.build import Resized, build_model, start_from
from utils.models.fast_layers import accelerate
from utils.training import run_folder
from utils.training.config import ResolvedConfig
from utils.training.optimizers import compile_model


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
        crop_area=config.full_recipe.crop_area,
        flip=config.full_recipe.flip,
        cutmix=config.full_recipe.cutmix,
        seed=config.seed,
    )


def with_precision(config: ResolvedConfig) -> ResolvedConfig:
    """The run with the precision that "auto" means."""
    if config.precision != "auto":
        return config
    begun = run_folder.begun_precision(config.run_dir)
    fast_layers = config.fast_layers and not config.eager
    precision = begun or environment.best_precision(fast_layers)
    print(f"precision auto: {precision}, " + ("as it was begun" if begun else "the fastest here"))
    return dataclasses.replace(config, precision=precision)


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
    on_cpu = environment.on_cpu() and not devices.mirrored
    if config.fast_layers and on_cpu and not config.eager:
        with environment.dtype_policy(config.precision):
            model = accelerate(model)
    if on_device(config, manifest, devices):
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


def on_device(config: ResolvedConfig, manifest: Manifest, devices: Devices) -> bool:
    """Whether the images of a run are kept on the device that it is trained on."""
    if config.dataset == "imagenet" or config.eager:
        return False
    images = manifest["counts"]["train"] + manifest["counts"]["validation"]
    return keeps_images(config.task, devices, 3 * images * manifest["image_size"] ** 2)


def variables_of(model: keras.Model, metrics: list[keras.metrics.Metric]) -> dict[str, Any]:
    """All that changes while a run trains, by names that do not differ between processes."""
    sums = [variable for metric in metrics for variable in metric.variables]
    return {
        # A random state's path would have a number that differs between processes.
        **{f"model/{x.name}/{v.name}": v for x in model.layers for v in x.variables},
        **{f"optimizer/{i:04d}": v for i, v in enumerate(model.optimizer.variables)},
        **{f"metric/{i}": v for i, v in enumerate(sums)},
    }
