"""Images that stay on the device, on JAX's CPU device: as those from the host, and continued."""

import json
import math

import pytest
from processes import CUT_OFF, SMALL_PRESET, run_on_jax

from utils import accelerator
from utils.devices import Devices
from utils.training.config import RunConfig
from utils.training.loop.callbacks import Checkpoints, Diverged, Measurements
from utils.training.run_folder import TrainState

SCRIPT = f"""
{SMALL_PRESET}
{CUT_OFF}
import json, sys
from dataclasses import replace
from pathlib import Path
import jax
import keras
import numpy as np
from utils import accelerator
from utils.data.manifest import load_manifest
from utils.data.pipeline import evaluation_batches, training_batches
from utils.data.plan import Source

data, folder = map(Path, sys.argv[1:])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = {{}}

# The plan gives the same images on the device and on the host.
take, feeder = jax.jit(accelerator.take), accelerator.Feeder(True, folder)
source = Source(data, load_manifest(data), batch_size=24, split="holdout", augment=True, seed=3)
training, held_out = training_batches(source, epochs=2), evaluation_batches(source)
resized = training_batches(replace(source, crop_area=0.25), epochs=1)
mixed = training_batches(replace(source, cutmix=0.5), epochs=1)
for batches, steps_per_execution in ((training, 4), (resized, 2), (mixed, 2), (held_out, 1)):
    plans = feeder(batches, steps_per_execution)
    assert len(plans) == len(batches) // steps_per_execution > 1
    for index in range(len(plans)):
        (plan, images), labels = plans[index]
        parts = [batches[index * steps_per_execution + i] for i in range(steps_per_execution)]
        expected = map(np.concatenate, zip(*parts))
        jax.tree.map(np.testing.assert_array_equal, [take(images, *plan), labels], list(expected))
found["copies"] = len(feeder.copies)  # of both, as the hold-out is part of train
found["steps_per_execution"] = [feeder.steps_per_execution(390, done) for done in (0, 15, 137, 195)]
found["fed steps_per_execution"] = accelerator.Feeder(False, folder).steps_per_execution(390, 0)

# A run with them learns what it learns without, and goes on where it was cut off.
accelerator.MOST_STEPS = 2
def config_of(name):
    return RunConfig(
        precision="float32",
        dataset="tiny-shapes", preset="small", recipe="tuned", batch_size=24, epochs=1,
        learning_rate=0.001, cutmix=0.5, image_sizes="32x1", split="holdout",
        checkpoint_every="3 steps",
        data_dir=str(data), run_dir=str(folder / name),
    )

def run(name):
    found[name] = train(config_of(name))
    with np.load(run_folder.checkpoints_in(folder / name)[0]) as checkpoint:
        return dict(checkpoint)

fed = run("fed")
accelerator._on_jax_gpu = lambda: True
whole = run("whole")
cut_off(config_of("cut"))
cut = run("cut")
assert fed.keys() == whole.keys() == cut.keys()  # so no images are among them
for name in whole.keys() - {{"state"}}:
    np.testing.assert_array_equal(cut[name], whole[name], name)
found["programs"] = sum("train_step" in path.name for path in (folder / "compiled").iterdir())
accelerator.Feeder(True, folder / "elsewhere")
found["cache"] = jax.config.jax_compilation_cache_dir
print(json.dumps(found))
"""


@pytest.mark.tracing
def test_images_on_the_device(shapes, tmp_path):
    printed = run_on_jax(SCRIPT, shapes, tmp_path)
    assert "Continuing cut after epoch 0 and 4 of 6 steps." in printed
    found = json.loads(printed.splitlines()[-1])
    assert found["copies"] == 1
    assert found["steps_per_execution"] == [15, 15, 1, 15]
    assert found["fed steps_per_execution"] == 1
    for measured in ("metrics", "metrics_train"):
        fed, whole, cut = (found[name][measured] for name in ("fed", "whole", "cut"))
        assert cut == whole
        assert whole["loss"] == pytest.approx(fed["loss"], rel=1e-4)
    assert found["whole"]["history"]["loss"] == pytest.approx(
        found["fed"]["history"]["loss"], rel=1e-5
    )
    assert found["cut"]["history"]["loss"] == found["whole"]["history"]["loss"]
    assert found["programs"] >= 1
    assert found["cache"] == str(tmp_path / "compiled")  # the first one's, for the whole process


def test_steps_are_counted_one_by_one_where_several_are_one_program():
    config = RunConfig(checkpoint_every="50 steps").resolve()
    state, saved = TrainState({}, step=30), []
    measurements = Measurements(config, state, 390, [], lambda: None, steps_per_execution=15)
    checkpoints = Checkpoints(
        config, state, 390, lambda: saved.append(state.step), [], Devices(), steps_per_execution=15
    )
    measurements.on_epoch_begin(0)
    for batch in range(24):
        measurements.on_train_batch_end(batch, {"loss": 1.0})
        checkpoints.on_train_batch_end(batch, {"loss": 1.0})
    assert state.step == 390
    assert saved == [60, 105, 150, 210, 255, 300, 360]
    with pytest.raises(Diverged):
        measurements.on_train_batch_end(2, {"loss": math.nan})
    state.step = 100
    with pytest.raises(Diverged):  # and no checkpoint takes the place of an earlier one
        checkpoints.on_train_batch_end(0, {"loss": math.nan})
    assert len(saved) == 7


def test_only_classifiers_on_one_gpu_of_jax_keep_their_images(monkeypatch):
    assert not accelerator.keeps_images("classification", Devices(), 1)
    monkeypatch.setattr(accelerator, "_on_jax_gpu", lambda: True)
    monkeypatch.setattr(accelerator, "_device_memory", lambda: None)
    assert accelerator.keeps_images("classification", Devices(), 1)
    assert not accelerator.keeps_images("localization", Devices(), 1)
    assert not accelerator.keeps_images("classification", Devices(2), 1)
    monkeypatch.setattr(accelerator, "_device_memory", lambda: 100)
    assert accelerator.keeps_images("classification", Devices(), 50)
    assert not accelerator.keeps_images("classification", Devices(), 51)
