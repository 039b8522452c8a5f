"""Trainings that begin with the weights of another run."""

import keras
import numpy as np
import pytest
import runs

from utils.models.build import build_model
from utils.models.presets import PRESETS
from utils.training.run import TrainingError, train

pytestmark = pytest.mark.tracing


def test_initial_weights(make_config, capsys, tmp_path):
    """From a network of another number of classes: all its weights but the classifier's."""
    saved = build_model(runs.SMALL, num_classes=200, normalization=([0] * 3, [1] * 3))
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


def test_the_same_file_with_other_weights_begins_another_run(make_config, tmp_path):
    path, options = tmp_path / "start.keras", {"initial_weights": str(tmp_path / "start.keras")}
    first, second = (
        build_model(runs.SMALL, num_classes=24, normalization=([mean] * 3, [1] * 3))
        for mean in (0, 1)
    )
    first.save(path)
    train(make_config(epochs=1, **options))
    first.save(path)
    assert train(make_config(epochs=1, **options))["metrics"]  # complete: the same weights
    second.save(path)
    with pytest.raises(TrainingError, match=r"another run.*initial_weights_crc32: \d+ there, \d+"):
        train(make_config(epochs=1, **options))


def test_initial_weights_of_another_network_are_refused(make_config, tmp_path):
    build_model(PRESETS["simple"], num_classes=24).save(tmp_path / "simple.keras")
    with pytest.raises(ValueError, match="simple.keras is of another network; .* Mismatches") as e:
        train(make_config(initial_weights=str(tmp_path / "simple.keras")))
    assert "shapes: tail_1_block1_bn1 must have" in str(e.value)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="text.keras cannot be read as a model"):
        train(make_config("text", initial_weights=str(tmp_path / "text.keras")))
