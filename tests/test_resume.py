"""Runs that were cut off end as if they had not been."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import runs

from utils import environment
from utils.models.presets import PRESETS
from utils.training import recipes, run_folder
from utils.training.loop import callbacks
from utils.training.predictions import load_predictions
from utils.training.results import devices_of, is_reportable, read_result
from utils.training.run import TrainingError, train
from utils.training.run_folder import checkpoints_in

pytestmark = pytest.mark.tracing


def test_a_continued_run_is_bit_equal(make_config, killed, monkeypatch, capsys):
    quick = dataclasses.replace(recipes.RECIPES["course"], plateau_patience=1)
    monkeypatch.setitem(recipes.RECIPES, "course", quick)  # a plateau within the three epochs
    options = {"preset": "whole", "recipe": "course", "checkpoint_every": 1}
    options |= {"ema": 0.9, "label_smoothing": 0.1, "dropout": 0.2}  # its random state goes on too
    whole = train(make_config("whole", **options))
    cut = make_config("cut", **options)
    killed(cut, 2)
    assert read_result(f"{cut.run_dir}/cut.json")["status"] == "running"
    runs.damage(checkpoints_in(cut.run_dir)[0])
    half_written = Path(cut.run_dir, "checkpoints", ".unfinished-x", "epoch-0003-step-0000000.npz")
    half_written.parent.mkdir()
    half_written.write_bytes(b"PK")
    Path(cut.run_dir, "checkpoints", ".ipynb_checkpoints").mkdir()  # Jupyter's is left alone
    capsys.readouterr()
    monkeypatch.setattr(environment, "_cpu_name", lambda: "another CPU")
    killed(cut, 3)  # with nothing left to do but to finish
    log = capsys.readouterr().out
    assert "epoch-0002-step-0000000.npz is damaged" in log
    assert "Continuing cut after epoch 1." in log
    assert not half_written.parent.exists()
    continued = train(cut)
    assert "Continuing cut after epoch 3." in capsys.readouterr().out
    assert runs.learned(continued) == runs.learned(whole)
    positions = [(leg["epoch"], leg["step"]) for leg in continued["legs"]]
    assert positions == [(0, 0), (1, 0)]  # and the last process went on where it was
    assert devices_of(continued) == [whole["env"]["device"], "another CPU"]
    assert continued["metrics_ema"]["loss"] != continued["metrics"]["loss"]
    assert 0 < continued["metrics_train"]["loss"] != continued["metrics"]["loss"]
    for name in ("model.keras", "model_ema.keras"):
        ours, theirs = runs.weights_of(cut, name), runs.weights_of(make_config("whole"), name)
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our, their)
    # The average is the optimizer's, and BatchNorm's statistics are those of a network with it.
    raw, average = (
        keras.models.load_model(f"{cut.run_dir}/{name}")
        for name in ("model.keras", "model_ema.keras")
    )
    with np.load(checkpoints_in(cut.run_dir)[0]) as file:
        kept = [file[name] for name in file.files if name.startswith("optimizer/")]
    for layer in average.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.array(layer.kernel)
            assert any(np.array_equal(kernel, array) for array in kept)
            assert not np.array_equal(kernel, raw.get_layer(layer.name).kernel)
    means = [model.get_layer("stem_bn1").moving_mean for model in (raw, average)]
    assert not np.array_equal(*means)


@pytest.mark.parametrize("task", ["localization", "segmentation"])
def test_other_tasks(make_config, killed, capsys, task):
    options = {"task": task, "epochs": 2, "split": "holdout"}
    whole = train(make_config("whole", **options))
    assert whole["task"] == task
    assert not is_reportable(whole)
    names = {
        "localization": {"top1", "top5", "iou", "localized"},
        "segmentation": {"accuracy", "iou"},
    }
    assert set(whole["metrics"]) == {"loss", "split", *names[task]}
    assert set(whole["history"]) > {f"val_{name}" for name in names[task]}
    assert all(len(values) == 2 for values in whole["history"].values())
    assert "IoU" in capsys.readouterr().out
    if task == "segmentation":  # its IoU is a metric of our own
        cut = make_config("cut", **options)
        killed(cut, 1)
        assert runs.learned(train(cut)) == runs.learned(whole)


def test_a_checkpoint_within_an_epoch_is_never_old(make_config, killed, monkeypatch, capsys):
    options = {"epochs": 2, "optimizer": "muon"}
    whole = train(make_config("whole", **options))
    cut = make_config("cut", evaluate_every=2, **options)
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    killed(cut, 1, step=2)
    log = capsys.readouterr().out
    assert "Continuing" not in log
    assert "| not evaluated |" in log
    assert read_result(cut.result_file)["metrics"] == {}
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "small", runs.SMALL)
    continued = train(cut)
    assert "Continuing cut after epoch 1 and 2 of 3 steps." in capsys.readouterr().out
    for name in ("val_loss", "val_top1", "val_top5"):  # the evaluations alone are fewer
        assert continued["history"][name] == [None, whole["history"][name][1]]
        whole["history"][name][0] = None
    assert runs.learned(continued) == runs.learned(whole)


def test_progressive_resizing_goes_on_bit_equal_across_a_change_of_size(
    make_config, killed, monkeypatch
):
    options = {"stem": "half", "image_sizes": "32x1-48x1", "epochs": 2}
    whole = train(make_config("whole", **options))
    cut = make_config("cut", **options)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
        killed(cut, 0, step=2)
    killed(cut, 1)  # the next process begins with the next size
    assert runs.learned(train(cut)) == runs.learned(whole)
    weights = (runs.weights_of(make_config(n), "model.keras") for n in ("cut", "whole"))
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_keeps_the_precision_that_auto_meant_when_it_began(make_config, monkeypatch, capsys):
    best = ["mixed_bfloat16"]
    monkeypatch.setattr("utils.environment.best_precision", lambda fast_layers: best[0])
    config = make_config(precision="auto", epochs=2, batch_size=24)
    result = train(config)
    assert "precision auto: mixed_bfloat16, the fastest here" in capsys.readouterr().out
    assert result["config"]["precision"] == result["env"]["precision"] == "mixed_bfloat16"
    assert "-p precision mixed_bfloat16" in result["command"]

    model = keras.models.load_model(f"{config.run_dir}/model.keras")  # in float32
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}
    assert model.get_layer("stem_conv1").compute_dtype == "float32"
    kept = load_predictions(f"{config.run_dir}/run.npz")  # as precise as it was trained
    assert (kept["classes"][:, 0] == kept["labels"]).mean() == pytest.approx(
        result["metrics"]["top1"], abs=1 / 96
    )

    best[0] = "float32"  # on another machine
    refused = Path(config.run_dir, "../refused")
    run_folder.check_config(refused, config.resolve(), "of the images")
    assert run_folder.begun_precision(refused) is None
    assert train(config) == result
    with pytest.raises(TrainingError, match="precision: 'mixed_bfloat16' there, 'float32' now"):
        train(dataclasses.replace(config, precision="float32"))
    Path(config.run_dir, "run.json").unlink()
    again = train(config)
    assert "precision auto: mixed_bfloat16, as it was begun" in capsys.readouterr().out
    assert runs.learned(again) == runs.learned(result)
