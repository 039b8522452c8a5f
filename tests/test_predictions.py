import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from utils.training import predictions


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
