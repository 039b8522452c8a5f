import keras
import numpy as np
import pytest

from utils.experiments import ablations
from utils.experiments.ablations import ablation_runs, ablation_table, with_batch_statistics
from utils.training.results import result_path, write_result


def test_each_run_changes_something_but_never_the_seed():
    default, second, *changed = ablation_runs()
    assert (default.seed, second.seed) == (0, 1)
    assert all(run.kind == "ablation" and run.split == "holdout" for run in changed)
    usual = default.identity()
    for run in changed:
        differing = {k for k, v in run.identity().items() if v != usual[k]}
        assert differing, run.run_id
        assert "seed" not in differing
    assert len({run.run_id for run in ablation_runs()}) == len(ablation_runs())


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


def test_the_table_of_factors(tmp_path):
    default, second, *changed = [run.run_id for run in ablation_runs()]
    top1 = {default: 0.30, second: 0.32} | {name: 0.295 for name in changed}
    top1[changed[1]] = 0.25
    evaluated = {name for name in changed if "momentum" in name and "course" not in name}
    top1 |= {f"{default}-batch-statistics": 0.31, f"{default}-batch-statistics-classes": 0.02}
    for name, value in top1.items():
        result = {
            "schema": 1, "run_id": name, "kind": "ablation", "status": "complete",
            "history": {"top1": [0.1, value / 2], "loss": [2.0, 1 - value / 2]},
            "metrics": {"top1": value}, "dataset": {"counts": {"holdout": 10_000}},
        }  # fmt: skip
        if name in evaluated:
            result["history"] = {"top1": [0.1, 0.15], "loss": [2.0, 0.85]}  # the default's
        if "statistics" in name:
            result["history"] = {}
        write_result(result_path(tmp_path, name), result)
    found = ablation_table(tmp_path)
    assert list(found["run"][:3]) == [
        "why-default",
        f"{default}-batch-statistics-classes",
        changed[1],
    ]
    np.testing.assert_allclose(found["difference"][:3], [0, -28, -6])
    np.testing.assert_allclose(found["train_top1"][:3], [0.155, 0.15, 0.125])
    by_run = found.set_index("run")
    # The default's standard deviation, sqrt(2) points; the mean of two has half its variance.
    own = found["reference"] == "mean of the seeds"
    np.testing.assert_allclose(found["uncertainty"][own], 3**0.5)
    # What changes evaluation alone is compared with the first seed, 30 %.
    again = [*evaluated, *(name for name in by_run.index if "statistics" in name)]
    assert len(again) == 5
    assert set(found["run"][~own]) == set(again)
    assert by_run["difference"][f"{default}-batch-statistics"] == pytest.approx(1)
    assert by_run["difference"][min(evaluated)] == pytest.approx(-0.5)
    error = 100 * (0.31 * 0.69 / 10_000 + 0.30 * 0.70 / 10_000) ** 0.5
    assert by_run["uncertainty"][f"{default}-batch-statistics"] == pytest.approx(error)
    assert found["n"].tolist() == [2] + [1] * (len(found) - 1)
    assert len(found) == len(changed) + 3
    write_result(result_path(tmp_path, name), {**result, "status": "running"})
    with pytest.raises(ValueError, match=f"{name} is not complete; run it to its end first"):
        ablation_table(tmp_path)


def test_a_difference_between_recipes_is_called_one_where_it_exceeds_its_error(
    tmp_path, monkeypatch
):
    trials = {
        "default": ("nothing", {}, 2),
        "silu": ("SiLU", {"activation": "silu"}, 1),
        "ema": ("averaged weights", {"ema": 0.99}, 1),
        "large": ("complex", {"preset": "complex"}, 1),
        "half": ("bfloat16", ablations.BFLOAT16, 1),
        "half-silu": ("SiLU", {**ablations.BFLOAT16, "activation": "silu"}, 1),
    }
    monkeypatch.setattr(ablations, "TRIALS", trials)
    top1 = {"default-seed0": 0.40, "default-seed1": 0.42, "silu-seed0": 0.43, "ema-seed0": 0.415}
    top1 |= {"large-seed0": 0.6, "half-seed0": 0.405, "half-silu-seed0": 0.41}
    runs = ablations.recipe_runs()
    assert [run.run_id for run in runs] == [f"recipe-{name}" for name in top1]
    assert (runs[1].seed, runs[2].activation, runs[4].preset) == (1, "silu", "complex")
    for run in runs:
        result = {
            "schema": 1, "kind": "ablation", "status": "complete", "history": {"top1": [0.1, 0.5]},
            "metrics": {"top1": top1[run.run_id.removeprefix("recipe-")]},
            "dataset": {"counts": {"holdout": 10_000}},
        }  # fmt: skip
        if run.full_recipe.ema:
            result["metrics_ema"] = {"top1": 0.44}
        write_result(result_path(tmp_path, run.run_id), result)
    table = ablations.recipe_table(tmp_path)
    assert list(table["n"]) == [2, 1, 1, 1, 1, 1]
    assert list(table["top1"]) == pytest.approx([0.41, 0.43, 0.415, 0.6, 0.405, 0.41])
    assert list(table["difference"]) == pytest.approx([0, 2, 0.5, 0, 0, 0.5], abs=1e-9)
    error = 100 * (0.43 * 0.57 / 10_000 + 0.41 * 0.59 / 10_000) ** 0.5
    assert table["error"][1] == pytest.approx(error)
    assert list(table["differs"]) == [False, True, False, False, False, False]
    assert table["ema_top1"].isna().tolist() == [True, True, False, True, True, True]
    write_result(result_path(tmp_path, run.run_id), {**result, "status": "running"})
    with pytest.raises(ValueError, match="recipe-half-silu-seed0 is not complete"):
        ablations.recipe_table(tmp_path)
