import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from utils.data.manifest import load_manifest
from utils.training import predictions
from utils.training.loop import network


@pytest.fixture
def config(make_config, tmp_path):
    """A run whose model is saved, with nothing kept yet."""
    config = make_config(weights_dir=str(tmp_path / "weights"))
    Path(config.run_dir).mkdir()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(f"{config.run_dir}/model.keras")
    return config


def test_weights_are_kept_up_to_a_size(config, tmp_path, monkeypatch, capsys):
    predictions.keep_weights(config)
    (kept,) = (tmp_path / "weights").iterdir()
    assert kept.name == "run.keras"
    kernel = keras.models.load_model(f"{config.run_dir}/model.keras").weights[0]
    half = keras.models.load_model(kept).weights[0]
    np.testing.assert_array_equal(half, np.array(kernel).astype("float16"))
    monkeypatch.setattr(predictions, "LARGEST_KEPT_WEIGHTS", kept.stat().st_size - 1)
    kept.unlink()
    predictions.keep_weights(config)
    assert "The weights stay in" in capsys.readouterr().out
    assert not kept.exists()


def test_weights_beyond_float16_stay_where_they_are(config, tmp_path, capsys):
    model = keras.models.load_model(f"{config.run_dir}/model.keras")
    model.weights[0].assign([[1e5], [0.0]])
    model.save(f"{config.run_dir}/model.keras")
    predictions.keep_weights(config)
    assert f"The weights stay in {config.run_dir}: " in (log := capsys.readouterr().out)
    assert "beyond float16" in log
    assert not (tmp_path / "weights").exists()
    assert predictions.kept_model(config).get_weights()[0][0, 0] == 1e5


def test_kept_weights_need_no_run_folder(config):
    predictions.keep_weights(config)
    kernel = predictions.kept_model(config).get_weights()[0]
    shutil.rmtree(config.run_dir)
    half = predictions.kept_model(config).get_weights()[0]
    np.testing.assert_array_equal(half, kernel.astype("float16"))
    shutil.rmtree(config.weights_dir)
    advice = r"run.json it is trained again, from its last checkpoint if one is left\."
    with pytest.raises(FileNotFoundError, match=rf"weights of run .*{advice}"):
        predictions.kept_model(config)


def test_the_weights_of_a_run_that_was_made_again_come_before_the_kept_ones(config):
    predictions.keep_weights(config)
    model = keras.models.load_model(f"{config.run_dir}/model.keras")
    model.weights[0].assign([[2.0], [3.0]])
    model.save(f"{config.run_dir}/model.keras")
    assert predictions.kept_model(config).get_weights()[0].ravel().tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("kind", "dataset", "kept"),
    [
        ("train", "tiny-imagenet", True),
        ("ablation", "tiny-imagenet", False),
        *(("train", name, False) for name in ("tiny-imagenet-like", "tiny-shapes", "folder")),
    ],
)
def test_what_real_runs_leave_is_to_be_committed(kind, dataset, kept):
    result = {"run_id": "a", "kind": kind, "dataset": {"name": dataset}}
    assert predictions.is_kept(result) == kept
    path = predictions.predictions_path("results/a.json", "runs/a", result)
    assert path == Path("results/a.npz" if kept else "runs/a/a.npz")


def test_the_accuracy_with_mirror_images_is_of_the_mean(make_config, monkeypatch):
    """The first image is taken for class 1, of which its mirror image is surer not to be."""
    config = make_config().resolve()
    source = network.source_of(config, load_manifest(config.data_dir))
    seen = []

    def predict(model, batches):
        images, labels = map(np.concatenate, zip(*batches, strict=True))
        seen.append(images)
        found = np.eye(24)[labels]
        if len(seen) == 1:
            found[0] = np.eye(24)[labels[0] - 1] * 0.6 + np.eye(24)[labels[0]] * 0.4
            found[1] = np.eye(24)[labels[1] - 1]
        else:
            found[1] = np.eye(24)[labels[1] - 1]
        return found, labels

    monkeypatch.setattr(predictions, "_predict", predict)
    Path(config.run_dir).mkdir()
    result = {"run_id": "run", "kind": "ablation", "dataset": {"name": "tiny-shapes"}}
    assert predictions.keep_predictions(config, None, source, result) == {
        "top1": 95 / 96, "split": "val",
    }  # fmt: skip
    np.testing.assert_array_equal(seen[1], seen[0][:, :, ::-1])


def test_each_run_keeps_the_same_images(tmp_path):
    kept = predictions.load_predictions("report/results/simple-tuned-8ep-seed0.npz")
    predictions.save_predictions(
        tmp_path / "a.npz",
        probabilities=np.full((10_000, 200), 1 / 200),
        labels=kept["labels"],
        manifest={"words": kept["words"]},
        images=[b"x"] * 10_000,
    )
    sample = predictions.load_predictions(tmp_path / "a.npz")["sample"][: predictions.SAMPLES]
    np.testing.assert_array_equal(sample, kept["sample"][: predictions.SAMPLES])


def test_predictions_of_very_many_classes(tmp_path):
    labels, count = np.array([69_999, 1, 2]), 70_000
    probabilities = np.zeros((3, count), "float32")
    probabilities[np.arange(3), [69_999, 2, 1]] = 1
    predictions.save_predictions(
        tmp_path / "a.npz",
        probabilities=probabilities,
        labels=labels,
        manifest={"words": ["x"] * count},
        images=[b"a", b"b", b"c"],
    )
    kept = predictions.load_predictions(tmp_path / "a.npz")
    assert kept["labels"].tolist() == labels.tolist()
    assert kept["classes"][:, 0].tolist() == [69_999, 2, 1]
    assert predictions.confusions(kept).tolist() == [[1, 2]]


def test_weights_that_are_too_large_to_keep_can_be_loaded(config, monkeypatch):
    monkeypatch.setattr(predictions, "LARGEST_KEPT_WEIGHTS", 2)
    assert predictions.kept_model(config).count_params() == 3
    assert not Path(config.weights_dir).exists()
