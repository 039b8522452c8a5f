import dataclasses
import json
import resource
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from filelock import FileLock

from utils.data.archives import DatasetError
from utils.experiments.ablations import evaluate_with_batch_statistics
from utils.models.build import build_model
from utils.models.presets import PRESETS, FishNetConfig
from utils.training import predictions, recipes, run
from utils.training.checkpoints import (
    CheckpointError,
    checkpoints_in,
    read_checkpoint,
    save_checkpoint,
)
from utils.training.config import RunConfig
from utils.training.predictions import load_predictions
from utils.training.results import is_reportable, read_result
from utils.training.run import TrainingError, train

# As little of a FishNet as there can be: tracing is what takes the time here.
SMALL = FishNetConfig((8, 16, 32, 64, 64, 64, 48, 32, 40, 104, 200), (1,) * 10, (0,) * 6)


class Killed(Exception):
    """Stands for the end of a process between two epochs."""


@pytest.fixture
def make_config(shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", SMALL)

    def make(name="run", **changes):
        options = {"dataset": "tiny-shapes", "data_dir": str(shapes), "preset": "small"}
        options |= {"batch_size": 96, "epochs": 3}
        return RunConfig(run_dir=str(tmp_path / name), **{**options, **changes})

    return make


@pytest.fixture
def killed(monkeypatch):
    """Trains, but ends as if killed once that many epochs are written."""

    def train_until(config, epochs):
        end_epoch = run._Run.end_epoch

        def end(run, epoch, measured):
            end_epoch(run, epoch, measured)
            if epoch + 1 == epochs:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(run._Run, "end_epoch", end)
            with pytest.raises(Killed):
                train(config)

    return train_until


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights_of(config, name):
    return keras.models.load_model(f"{config.run_dir}/{name}").get_weights()


def learned(result):
    """A result without what may differ from run to run: times, memory, names."""
    measured = {"seconds", "images_per_second", "peak_rss_mb"}
    history = {k: v for k, v in result["history"].items() if k not in measured}
    return history, result["metrics"], result.get("metrics_ema")


def test_a_continued_run_is_bit_equal(make_config, killed, monkeypatch, capsys):
    quick = dataclasses.replace(recipes.RECIPES["course"], plateau_patience=1)
    monkeypatch.setitem(recipes.RECIPES, "course", quick)  # a plateau within the three epochs
    options = {"recipe": "course", "checkpoint_every": 1, "ema": 0.9, "label_smoothing": 0.1}
    options |= {"dropout": 0.2}  # its random state goes on too
    whole = train(make_config("whole", **options))
    cut = make_config("cut", **options)
    killed(cut, 2)
    assert read_result(f"{cut.run_dir}/cut.json")["status"] == "running"
    damage(checkpoints_in(f"{cut.run_dir}/checkpoints")[0])
    half_written = Path(cut.run_dir, "checkpoints", ".epoch-0003-step-0000000.npz-killed")
    half_written.write_bytes(b"PK")
    capsys.readouterr()
    killed(cut, 3)  # with nothing left to do but to finish
    log = capsys.readouterr().out
    assert "epoch-0002-step-0000000.npz is damaged" in log
    assert "Continuing cut after epoch 1." in log
    assert not half_written.exists()
    continued = train(cut)
    assert "Continuing cut after epoch 3." in capsys.readouterr().out
    assert learned(continued) == learned(whole)
    assert continued["metrics_ema"]["loss"] != continued["metrics"]["loss"]
    for name in ("model.keras", "model_ema.keras"):
        ours, theirs = weights_of(cut, name), weights_of(make_config("whole"), name)
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(our, their)


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


def test_initial_weights(make_config, capsys, tmp_path):
    """From a network of another number of classes: all its weights but the classifier's."""
    saved = build_model(SMALL, num_classes=200, normalization=([0] * 3, [1] * 3))
    saved.save(tmp_path / "first.keras")
    still = {"optimizer": "sgd", "learning_rate": 1e-9, "epochs": 1}
    config = make_config(initial_weights=str(tmp_path / "first.keras"), **still)
    result = train(config)
    assert "first.keras; new: logits." in capsys.readouterr().out
    assert result["config"]["initial_weights"].endswith("first.keras")
    trained = keras.models.load_model(f"{config.run_dir}/model.keras")
    for layer in saved.layers:
        if layer.name.endswith(("conv1", "conv2", "conv3")):
            np.testing.assert_allclose(
                trained.get_layer(layer.name).kernel, layer.kernel, rtol=1e-5, atol=1e-6
            )
    again = make_config("again", initial_weights=f"{config.run_dir}/model.keras", **still)
    train(again)
    assert "new: " not in capsys.readouterr().out
    kernels = (
        keras.models.load_model(f"{c.run_dir}/model.keras").get_layer("logits").kernel
        for c in (config, again)
    )
    np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-6)


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
        assert learned(train(cut)) == learned(whole)


def test_initial_weights_of_another_network_are_refused(make_config, tmp_path):
    build_model(PRESETS["simple"], num_classes=24).save(tmp_path / "simple.keras")
    with pytest.raises(ValueError, match="simple.keras is of another network; .* Mismatches") as e:
        train(make_config(initial_weights=str(tmp_path / "simple.keras")))
    assert "shapes: body_1_block1_bn1 must have" in str(e.value)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="text.keras cannot be read as a model"):
        train(make_config("text", initial_weights=str(tmp_path / "text.keras")))


def test_eager_mode_learns_the_same(make_config):
    options = {"epochs": 1, "recipe": "course"}
    graph, eager = (train(make_config(f"{e}", eager=e, **options)) for e in (False, True))
    assert eager["config"]["eager"]
    for name in ("loss", "val_loss"):
        assert eager["history"][name] == pytest.approx(graph["history"][name], rel=1e-3)


def test_what_a_run_leaves_behind(make_config, capsys):
    config = make_config(epochs=2, recipe="course", tensorboard=True)
    result = train(config)
    log = capsys.readouterr().out
    assert log.count("epoch ") == 2
    val = result["metrics"]
    assert f"| val {val['loss']:.3f} {val['top1']:.1%} {val['top5']:.1%} | lr 0.001 |" in log
    folder = sorted(p.name for p in Path(config.run_dir).iterdir())
    assert folder == [
        "checkpoints", "config.json", "lock", "model.keras", "run.json", "run.npz", "tensorboard",
    ]  # fmt: skip
    written = {p.parent.name for p in Path(config.run_dir, "tensorboard").rglob("events*")}
    assert written == {"train", "validation"}
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
    assert train(config) == result
    assert "run is complete; nothing to do" in capsys.readouterr().out
    assert (Path(config.run_dir) / "model.keras").stat().st_mtime_ns == before

    written = Path(config.run_dir, "config.json")
    older = {k: v for k, v in json.loads(written.read_text()).items() if k != "eager"}
    written.write_text(json.dumps(older))  # by a version that had no such field yet
    assert train(config) == result

    other = dataclasses.replace(config, seed=3, batch_size=48)
    with pytest.raises(TrainingError, match=r"batch_size: 96 there, 48 now; seed: 0 there, 3 now"):
        train(other)


def test_weights_are_kept_up_to_a_size(make_config, tmp_path, monkeypatch, capsys):
    config = make_config(weights_dir=str(tmp_path / "weights"))
    Path(config.run_dir).mkdir()
    Path(config.run_dir, "model.keras").write_bytes(b"123")
    monkeypatch.setattr(predictions, "LARGEST_KEPT_WEIGHTS", 2)
    predictions.keep_weights(config)
    assert "The weights stay in" in capsys.readouterr().out
    assert not (tmp_path / "weights").exists()
    monkeypatch.setattr(predictions, "LARGEST_KEPT_WEIGHTS", 3)
    predictions.keep_weights(config)
    assert (tmp_path / "weights" / "run.keras").read_bytes() == b"123"


def test_kept_weights_need_no_run_folder(make_config, tmp_path):
    config = make_config(weights_dir=str(tmp_path / "weights"))
    Path(config.run_dir).mkdir()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(f"{config.run_dir}/model.keras")
    predictions.kept_model(config)
    shutil.rmtree(config.run_dir)
    for ours, theirs in zip(predictions.kept_model(config).weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shutil.rmtree(config.weights_dir)
    with pytest.raises(FileNotFoundError, match=r"weights of run .*run.json it is trained again"):
        predictions.kept_model(config)


def test_weights_that_are_too_large_to_keep_can_be_loaded(make_config, tmp_path, monkeypatch):
    config = make_config(weights_dir=str(tmp_path / "weights"))
    Path(config.run_dir).mkdir()
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(
        f"{config.run_dir}/model.keras"
    )
    monkeypatch.setattr(predictions, "LARGEST_KEPT_WEIGHTS", 2)
    assert predictions.kept_model(config).count_params() == 3
    assert not (tmp_path / "weights").exists()


def test_a_folder_in_use_is_refused(make_config):
    config = make_config()
    Path(config.run_dir).mkdir()
    with (
        FileLock(Path(config.run_dir, "lock")),
        pytest.raises(TrainingError, match="Another process is training in .*run"),
    ):
        train(config)
    assert [p.name for p in Path(config.run_dir).iterdir()] == ["lock"]


def test_a_run_that_diverges_stops_and_says_so(make_config, monkeypatch):
    wild = dataclasses.replace(recipes.RECIPES["tuned"], learning_rate=1e30)
    monkeypatch.setitem(recipes.RECIPES, "tuned", wild)
    config = make_config(batch_size=24)
    with pytest.raises(TrainingError, match="no longer finite in epoch 1, step 12"):
        train(config)
    assert read_result(f"{config.run_dir}/run.json")["status"] == "failed"
    assert not Path(config.run_dir, "model.keras").exists()


def test_checkpoint_of_another_model_is_named(tmp_path):
    save_checkpoint(tmp_path, 1, 0, {"a": keras.Variable([1.0]), "b": keras.Variable(2.0)}, {})
    (path,) = tmp_path.iterdir()
    arrays, _ = read_checkpoint(path, {"a": keras.Variable([3.0]), "b": keras.Variable(0.0)})
    assert (arrays["a"], arrays["b"]) == ([1.0], 2.0)
    with pytest.raises(CheckpointError, match="another model or optimizer: b, c, a .* another run"):
        read_checkpoint(path, {"a": keras.Variable([1.0, 2.0]), "c": keras.Variable(0.0)})


@pytest.fixture
def copied(shapes, tmp_path):
    return Path(shutil.copytree(shapes, tmp_path / "records"))


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


def test_a_run_of_other_records_or_of_another_preset_is_left_alone(make_config, copied):
    config = make_config(epochs=1)
    train(config)
    with pytest.raises(TrainingError, match="preset: 'small' there, 'simple' now"):
        train(dataclasses.replace(config, preset="simple"))
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "classes": ["a"]}))
    with pytest.raises(TrainingError, match="manifest_sha256: .* there, .* now"):
        train(dataclasses.replace(config, data_dir=str(copied)))
    assert read_result(f"{config.run_dir}/run.json")["status"] == "complete"


def test_a_complete_run_is_left_and_another_of_its_name_is_refused(make_config, tmp_path, capsys):
    shared = {"epochs": 1, "results_dir": str(tmp_path / "results")}
    first = make_config("a/run", **shared)
    result = train(first)
    before = first.result_file.read_bytes()
    with pytest.raises(TrainingError, match="another run than .*b/run .*seed: 0 there, 1 now"):
        train(make_config("b/run", seed=1, **shared))
    shutil.rmtree(first.run_dir)
    capsys.readouterr()
    for config in (first, make_config("c/run", **shared)):
        assert train(config) == result
        assert "run is complete; nothing to do" in capsys.readouterr().out
    assert first.result_file.read_bytes() == before
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()


def test_a_full_disk_leaves_the_checkpoints_before(make_config, killed):
    config = make_config()
    killed(config, 1)
    (before,) = checkpoints_in(f"{config.run_dir}/checkpoints")
    content = before.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match="File too large.*Make room there.*are intact"):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints_in(f"{config.run_dir}/checkpoints") == [before]
    assert before.read_bytes() == content
    assert not list(before.parent.glob(".*"))


def test_a_folder_that_cannot_be_written(make_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="file/run.*choose another run_dir"):
        train(make_config("file/run"))


def test_records_that_do_not_fit_are_refused(shapes, tmp_path):
    config = RunConfig(data_dir=str(shapes), run_dir=str(tmp_path / "run"))
    with pytest.raises(TrainingError, match="holds tiny-shapes, not tiny-imagenet"):
        train(config)
    with pytest.raises(ValueError, match="at most the number of training images, 288.*=289"):
        train(dataclasses.replace(config, dataset="tiny-shapes", batch_size=289))
    assert not (tmp_path / "run").exists()
