import keras
import numpy as np
import pytest

from utils.ablations import (
    evaluate_with_batch_statistics,
    runs,
    table,
    with_batch_statistics,
)
from utils.presets import PRESETS, FishNetConfig
from utils.results import is_reportable, read_result, result_path, write_result
from utils.run_config import RunConfig
from utils.training import train

SMALL = FishNetConfig((8, 16, 32, 64, 64, 64, 48, 32, 40, 104, 200), (1,) * 10, (0,) * 6)


def test_each_run_changes_one_thing():
    default, second, *changed = runs()
    assert (default.seed, second.seed) == (0, 1)
    assert all(run.kind == "ablation" and run.split == "holdout" for run in changed)
    usual = default.identity()
    for run in changed:
        differing = {k for k, v in run.identity().items() if v != usual[k]}
        assert differing, run.run_id
        assert "seed" not in differing
    assert len({run.run_id for run in runs()}) == len(runs())


def test_batch_statistics_instead_of_running_averages():
    inputs = keras.Input((2, 2, 1))
    norm = keras.layers.BatchNormalization(epsilon=1e-9, name="norm")
    model = keras.Model(inputs, keras.layers.Flatten()(norm(inputs)))
    values = {"gamma": 2, "beta": 1, "mean": 100, "variance": 4}
    norm.set_weights([np.array([value], "float32") for value in values.values()])
    images = np.random.default_rng(0).normal(3, 5, (8, 2, 2, 1)).astype("float32")
    flat = images.reshape(8, 4)
    np.testing.assert_allclose(model.predict(images, verbose=0), flat - 99, rtol=1e-4)
    by_batch = with_batch_statistics(model).predict(images, batch_size=8, verbose=0)
    expected = 1 + 2 * (flat - flat.mean()) / flat.std()
    np.testing.assert_allclose(by_batch, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def trained(shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", SMALL)
    config = RunConfig(
        preset="small", dataset="tiny-shapes", data_dir=str(shapes), batch_size=48, epochs=1,
        run_dir=str(tmp_path / "run"), results_dir=str(tmp_path / "run"), split="holdout",
        batch_norm_momentum=0.999, optimizer="adam", learning_rate=1e-3, warmup=0.0,
    )  # fmt: skip
    return config, train(config)


def test_evaluation_in_training_mode(trained):
    config, result = trained
    assert result["config"]["recipe_fields"]["optimizer"] == "adam"
    norm = keras.models.load_model(f"{config.run_dir}/model.keras").get_layer("stem_bn1")
    assert norm.momentum == 0.999
    again = evaluate_with_batch_statistics(config)
    classes = evaluate_with_batch_statistics(config, record_order="classes")
    assert classes["run_id"] == "run-batch-statistics-classes"
    assert read_result(f"{config.run_dir}/run-batch-statistics.json") == again
    assert not is_reportable(again)
    # Five steps with 0.999 leave the averages near zero and one: training mode does better.
    assert again["metrics"]["loss"] < result["metrics"]["loss"]
    assert again["metrics"]["loss"] != classes["metrics"]["loss"]


def test_the_table_of_factors(tmp_path):
    default, second, *changed = [run.run_id for run in runs()]
    top1 = {default: 0.30, second: 0.32} | {name: 0.30 for name in changed}
    top1[changed[1]] = 0.25
    top1 |= {f"{default}-batch-statistics": 0.31, f"{default}-batch-statistics-classes": 0.02}
    for name, value in top1.items():
        result = {
            "schema": 1, "run_id": name, "kind": "ablation", "status": "complete",
            "history": {}, "metrics": {"top1": value},
        }  # fmt: skip
        write_result(result_path(tmp_path, name), result)
    found = table(tmp_path)
    assert list(found["run"][:3]) == [
        "why-default",
        f"{default}-batch-statistics-classes",
        changed[1],
    ]
    np.testing.assert_allclose(found["points"][:3], [0, -29, -6])
    # The default's standard deviation, sqrt(2) points; the mean of two has half its variance.
    np.testing.assert_allclose(found["uncertainty"], 3**0.5)
    assert len(found) == len(changed) + 3
