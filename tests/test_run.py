import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorflow.python.framework.config import is_op_determinism_enabled

from utils.data.archives import DatasetError
from utils.data.manifest import load_manifest
from utils.data.pipeline import evaluation_batches
from utils.devices import Devices
from utils.experiments.ablations import evaluate_with_batch_statistics
from utils.models.build import Resized
from utils.training import recipes, run_folder
from utils.training.config import RunConfig
from utils.training.loop.network import source_of
from utils.training.optimizers import estimate_batch_norm
from utils.training.predictions import load_predictions
from utils.training.results import is_reportable, read_result
from utils.training.run import TrainingError, _callbacks_of, train
from utils.training.run_folder import TrainState

pytestmark = pytest.mark.tracing


def test_evaluation_in_training_mode(make_config, tmp_path):
    # Two steps with 0.999 leave the averages near zero and one: training mode does better.
    changes = {"batch_norm_momentum": 0.999, "optimizer": "adam", "learning_rate": 1e-3}
    config = make_config(epochs=2, split="holdout", results_dir=str(tmp_path / "run"), **changes)
    result = train(config)
    assert result["config"]["recipe_fields"]["optimizer"] == "adam"
    norm = keras.models.load_model(f"{config.run_dir}/model.keras").get_layer("stem_bn1")
    assert norm.momentum == 0.999
    again = evaluate_with_batch_statistics(config)
    classes = evaluate_with_batch_statistics(config, record_order="classes")
    assert classes["run_id"] == "run-batch-statistics-classes"
    assert read_result(f"{config.run_dir}/run-batch-statistics.json") == again
    assert not is_reportable(again)
    assert again["metrics"]["loss"] < result["metrics"]["loss"]
    assert again["metrics"]["loss"] != classes["metrics"]["loss"]
    assert again.keys() & {"metrics_train", "metrics_flip", "legs"} == set()  # of the training


def test_eager_mode_learns_the_same(make_config):
    options = {"epochs": 1, "recipe": "course"}
    graph, eager = (train(make_config(f"{e}", eager=e, **options)) for e in (False, True))
    assert eager["config"]["eager"]
    for name in ("loss", "val_loss"):
        assert eager["history"][name] == pytest.approx(graph["history"][name], rel=1e-3)


def test_what_a_run_leaves_behind(make_config, capsys):
    config = make_config(epochs=2, recipe="course", tensorboard=True)
    watched = []
    result = train(config, watch=lambda result: watched.append(len(result["history"]["loss"])))
    assert watched == [0, 1, 2]  # before the first epoch, and after each
    log = capsys.readouterr().out
    assert "small, " in log
    assert " parameters, with the recipe course on tiny-shapes: 2 epochs of 3 steps" in log
    assert log.count("\nepoch ") == 2
    val = result["metrics"]
    assert f"| val {val['loss']:.3f} {val['top1']:.1%} {val['top5']:.1%} | lr 0.001 |" in log
    folder = sorted(p.name for p in Path(config.run_dir).iterdir())
    assert folder == [
        "checkpoints", "config.json", "lock", "model.keras", "run.json", "run.npz", "tensorboard",
    ]  # fmt: skip
    written = {p.parent.name for p in Path(config.run_dir, "tensorboard").rglob("events*")}
    assert written == {"tensorboard", "train", "validation"}
    hparams = hparams_of(Path(config.run_dir, "tensorboard"))
    assert hparams["recipe"].string_value == "course"
    assert hparams["learning_rate"].number_value == 1e-3  # of the recipe
    assert hparams["epochs"].number_value == config.epochs != config.full_recipe.epochs
    assert hparams["batch_size"].number_value == 96
    assert hparams["augment"].bool_value is False
    assert hparams["augment"].HasField("bool_value")
    assert result == json.loads((Path(config.run_dir) / "run.json").read_text())
    assert result["dataset"]["synthetic"]
    assert result["status"] == "complete"
    kept = load_predictions(f"{config.run_dir}/run.npz")
    assert (kept["classes"][:, 0] == kept["labels"]).mean() == pytest.approx(
        result["metrics"]["top1"]
    )
    model = keras.models.load_model(f"{config.run_dir}/model.keras")
    np.testing.assert_allclose(model.get_layer("normalization").scale, [1 / 255] * 3)
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}

    before = (Path(config.run_dir) / "model.keras").stat().st_mtime_ns
    assert train(config, watched.append) == result
    assert watched.pop() == result
    assert "run is complete; nothing to do" in capsys.readouterr().out
    assert (Path(config.run_dir) / "model.keras").stat().st_mtime_ns == before

    written = Path(config.run_dir, "config.json")
    older = {k: v for k, v in json.loads(written.read_text()).items() if k != "eager"}
    written.write_text(json.dumps(older))  # by a version that had no such field yet
    assert train(config) == result

    other = dataclasses.replace(config, seed=3, batch_size=48)
    with pytest.raises(TrainingError, match=r"batch_size: 96 there, 48 now; seed: 0 there, 3 now"):
        train(other)


def hparams_of(folder):
    """What TensorBoard shows as a run's parameters."""
    found = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    parsed = HParamsPluginData.FromString(found["_hparams_/session_start_info"])
    return parsed.session_start_info.hparams


def test_a_run_that_diverges_stops_and_says_so(make_config, monkeypatch):
    wild = dataclasses.replace(recipes.RECIPES["tuned"], learning_rate=1e30)
    monkeypatch.setitem(recipes.RECIPES, "tuned", wild)
    config = make_config(batch_size=24)
    with pytest.raises(TrainingError, match="no longer finite in epoch 1, step 12"):
        train(config)
    assert read_result(f"{config.run_dir}/run.json")["status"] == "failed"
    assert not Path(config.run_dir, "model.keras").exists()


@pytest.mark.parametrize("harm", ["truncated", "missing", "replaced"])
def test_a_shard_changed_after_conversion_is_named(make_config, copied, harm):
    shard = copied / "train-00003-of-00016"
    if harm == "missing":
        shard.unlink()
    elif harm == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5])
    else:
        shutil.copy(copied / "train-00004-of-00016", shard)
    with pytest.raises(DatasetError, match="missing or damaged: train-00003.*01_data_conversion"):
        train(make_config(data_dir=str(copied)))


def test_a_label_out_of_range_stops_with_the_folder_named(make_config, copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["classes"] = manifest["classes"][:20]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=r"records in .*records cannot be used: .*20 classes"):
        train(make_config(data_dir=str(copied)))


def test_records_that_do_not_fit_are_refused(shapes, tmp_path):
    config = RunConfig(data_dir=str(shapes), run_dir=str(tmp_path / "run"))
    with pytest.raises(DatasetError, match="holds tiny-shapes, not tiny-imagenet"):
        train(config)
    with pytest.raises(ValueError, match="at most the number of training images, 288.*=289"):
        train(dataclasses.replace(config, dataset="tiny-shapes", batch_size=289))
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_session_has_finished_meanwhile_is_not_done_again(
    make_config, monkeypatch
):
    config, lock, others = make_config(epochs=1), run_folder.lock, []

    @contextlib.contextmanager
    def waits(folder):
        monkeypatch.setattr(run_folder, "lock", lock)
        others.append(train(config))
        with lock(folder):
            yield

    monkeypatch.setattr(run_folder, "lock", waits)
    assert train(config) == others[0]
    assert len(read_result(config.result_file)["legs"]) == 1


def test_of_several_processes_one_writes_for_tensorboard(make_config):
    config, state = make_config(tensorboard=True).resolve(), TrainState({})
    first, second = (_callbacks_of(config, state, Devices(2, i, 2)) for i in (0, 1))
    assert len(first) == len(second) + 1


def test_a_batch_that_devices_cannot_share_is_refused(make_config, monkeypatch):
    monkeypatch.setattr("utils.training.run.find_devices", lambda distribution: Devices(2))
    with pytest.raises(ValueError, match=r"multiple of the number of devices, 2\. Received: 95"):
        train(make_config(batch_size=95))


@pytest.mark.parametrize("fails", [False, True])
def test_global_state_is_put_back(make_config, monkeypatch, fails):
    def fail(*arguments, **options):
        assert is_op_determinism_enabled()
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.training.loop.network.accelerate", fail)
    config = make_config(precision="mixed_bfloat16", epochs=1, fast_layers=fails)
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        train(config)
    assert keras.config.dtype_policy().name == "float32"
    assert not is_op_determinism_enabled()


def test_images_are_trained_at_the_sizes_of_the_phases(make_config, monkeypatch):
    sizes, train_at = [], Resized.train_at
    monkeypatch.setattr(
        Resized, "train_at", lambda self, size: sizes.append(size) or train_at(self, size)
    )
    train(make_config(stem="half", image_sizes="32x1-48x1", epochs=2))
    assert sizes == [32, 48]


def test_the_plateau_is_the_recipe_s(make_config):
    config = make_config(recipe="course", batch_size=256).resolve()
    (plateau,) = _callbacks_of(config, TrainState({"val_loss": []}), Devices())
    found = (plateau.patience, plateau.factor, plateau.initial_rate, plateau.monitor)
    assert found == (3, 0.1, 1e-3, "val_cross_entropy")


def test_the_average_sees_training_images_and_is_evaluated_on_the_split(make_config, monkeypatch):
    config, seen = make_config(epochs=2, ema=0.5, optimizer="adam", learning_rate=1e-3), []

    def noting(model, batches):
        seen.append(batches[0][0])
        estimate_batch_norm(model, batches)

    monkeypatch.setattr("utils.training.loop.ending.estimate_batch_norm", noting)
    result = train(config)
    source = source_of(config.resolve(), load_manifest(config.data_dir))
    np.testing.assert_array_equal(seen[0], evaluation_batches(source, on_train=True)[0][0])
    model = keras.models.load_model(f"{config.run_dir}/model_ema.keras")
    ((images, labels),) = evaluation_batches(source)
    logits = model.predict_on_batch(images)
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert result["metrics_ema"]["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-3)
