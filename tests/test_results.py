import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorflow.io import decode_jpeg

from utils.analysis import published, tables
from utils.analysis.predictions import (
    calibration,
    confused_pairs,
    expected_calibration_error,
    per_class_accuracy,
)
from utils.models.build import count_parameters
from utils.training import results
from utils.training.config import RunConfig
from utils.training.predictions import confused_images, load_predictions, save_predictions
from utils.training.run_folder import TrainingError


def make_result(**changes):
    return {
        "schema": 1, "run_id": "a", "kind": "train", "status": "complete", "preset": "simple",
        "recipe": "tuned-v1", "task": "classification",
        "dataset": {"name": "tiny-imagenet", "synthetic": False},
        "model": {"parameters": 654_200, "macs": 14_000_000},
        "history": {name: [0.25, 0.5] for name in results.history_names()},
        "metrics": {"top1": 0.5, "top5": 0.75, "loss": 2.0, "split": "val"},
        "env": {"device": "a CPU"}, "config": {}, **changes,
    }  # fmt: skip


def test_round_trip_and_shape_checks(tmp_path):
    path = results.result_path(tmp_path / "results", "a")
    results.write_result(path, make_result())
    assert results.read_result(path) == make_result()
    with pytest.raises(ValueError, match="status must be one of running, complete, failed"):
        results.write_result(path, make_result(status="done"))
    uneven = {**make_result()["history"], "loss": [1.0]}
    with pytest.raises(ValueError, match="one value per epoch"):
        results.write_result(path, make_result(history=uneven))
    assert results.read_result(path) == make_result()
    path.write_text("{")
    with pytest.raises(ValueError, match="a.json is damaged or half-written"):
        results.read_result(path)
    path.write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="a.json: schema must be 1. Received: 2"):
        results.read_result(path)


def test_a_recipe_of_another_version_is_read_by_its_name_of_today():
    result = results.read_result("report/results/simple-tuned-8ep-seed0.json")
    assert (result["recipe"], result["config"]["recipe"]) == ("tuned-v1", "tuned-v1")
    assert "-p preset simple -p recipe tuned-v1 -p epochs 8 " in result["command"]


@pytest.fixture
def make_run(tmp_path):
    """Makes the config of a run with a result of 2 epochs, trained on the dataset "abc"."""

    def make(run_dir="first/run", status="complete", **changes):
        config = RunConfig(
            epochs=2, run_dir=str(tmp_path / run_dir), results_dir=str(tmp_path), **changes
        )
        epochs = 2 if status == "complete" else 1
        result = make_result(
            config=config.identity(), recipe=config.recipe, status=status,
            dataset={"manifest_sha256": "abc"},
            history={name: [0.5] * epochs for name in results.history_names()},
        )  # fmt: skip
        results.write_result(config.result_file, result)
        return config

    return make


def test_a_complete_result_is_recognized_wherever_its_run_was(make_run, tmp_path):
    config = make_run()
    assert results.complete_result(config, "abc")["metrics"]["top1"] == 0.5
    moved = dataclasses.replace(config, run_dir=str(tmp_path / "second/run"), tensorboard=True)
    assert results.complete_result(moved, "abc") == results.complete_result(config, "abc")
    assert results.complete_result(config) is not None
    other = dataclasses.replace(config, run_dir=str(tmp_path / "first/other"))
    assert results.complete_result(other, "abc") is None
    assert results.complete_result(make_run(status="running"), "abc") is None


@pytest.mark.parametrize("status", ["complete", "running", "failed"])
def test_a_result_of_another_run_is_refused_with_both_named(make_run, tmp_path, status):
    config = make_run(status=status)
    before = config.result_file.read_bytes()
    other = dataclasses.replace(config, run_dir=str(tmp_path / "second/run"), seed=1)
    named = r"run.json is the result of another run, not .*second/run \(.*seed: 0 there, 1 now\)\."
    with pytest.raises(
        TrainingError, match=named + r" Use another run_dir, .* another results_dir"
    ):
        results.complete_result(other, "abc")
    with pytest.raises(TrainingError, match="manifest_sha256: 'abc' there, 'def' now"):
        results.complete_result(config, "def")
    assert config.result_file.read_bytes() == before


@pytest.mark.parametrize("changes", [{"config": {}}, {"history": {}}])
def test_a_result_that_is_not_of_a_training_is_refused(make_run, changes):
    config = make_run()
    result = results.read_result(config.result_file)
    config.result_file.write_text(json.dumps(result | changes))
    with pytest.raises(TrainingError, match="is not the result of a training"):
        results.complete_result(config, "abc")


def test_readme_commands_find_their_committed_results():
    for result in results.load_results("report/results"):
        words = result["command"].split(" -p ")[1:]
        config = RunConfig(**dict(word.split(" ", 1) for word in words))
        manifest_sha256 = result["dataset"]["manifest_sha256"]
        assert results.complete_result(config, manifest_sha256) == result


def test_only_real_complete_val_trainings_enter_the_table(tmp_path):
    refused = {
        "synthetic": {"dataset": {"name": "tiny-imagenet", "synthetic": True}},
        "shapes": {"dataset": {"name": "tiny-shapes", "synthetic": False}},
        "like": {"dataset": {"name": "tiny-imagenet-like", "synthetic": False}},
        "running": {"status": "running"},
        "failed": {"status": "failed"},
        "boxes": {"task": "localization"},
        "ablation": {"kind": "ablation"},
        "third": {"config": {"fraction": 1 / 3}},
        "holdout": {"metrics": {**make_result()["metrics"], "split": "holdout"}},
    }
    for run_id, changes in {"kept": {}, **refused}.items():
        path = results.result_path(tmp_path, run_id)
        results.write_result(path, make_result(run_id=run_id, **changes))
    table = tables.results_table(results.load_results(tmp_path))
    assert list(table["run"]) == ["kept"]
    row = table.iloc[0]
    assert (row["validation top-1"], row["training top-1"], row["epochs"]) == (0.5, 0.5, 2)
    assert np.isnan(row["clean training top-1"])
    clean = tables.results_table([make_result(metrics_train={"top1": 0.7})])
    assert clean["clean training top-1"][0] == 0.7


@pytest.fixture
def predictions(tmp_path):
    """Six images of three classes; the network takes one of class 0 for 2 and one of 2 for 0."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    called = np.array([0, 2, 1, 1, 0, 2])
    probabilities = np.full((6, 8), 0.05)
    probabilities[np.arange(6), called] = 0.65
    words = ["cat, house cat", "dog", "fox", *"abcde"]
    path = tmp_path / "a.npz"
    save_predictions(
        path, probabilities=probabilities, labels=labels, manifest={"words": words},
        images=[bytes([i]) * (i + 1) for i in range(6)], samples=3,
    )  # fmt: skip
    return load_predictions(path)


def test_predictions_round_trip(predictions):
    np.testing.assert_array_equal(predictions["labels"], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(predictions["classes"][:, 0], [0, 2, 1, 1, 0, 2])
    assert predictions["classes"].shape == predictions["probabilities"].shape == (6, 5)
    assert [len(j) - 1 for j in predictions["jpeg"]] == list(predictions["sample"])
    assert [j[0] for j in predictions["jpeg"]] == list(predictions["sample"])


def test_analysis_of_predictions(predictions):
    accuracy = per_class_accuracy(predictions)
    assert accuracy.to_dict() == {"cat": 0.5, "fox": 0.5, "dog": 1.0}
    first = confused_pairs(predictions, 1).iloc[0]
    assert list(first) == ["cat", "fox", 1, 1, 2]
    assert confused_images(predictions, pairs=2) == [[1, 4]]
    assert list(predictions["sample"][3:]) == [1, 4]  # kept behind the three drawn ones


def test_when_a_run_passes_a_level():
    history = {"val_top1": [0.1, 0.3, 0.2], "seconds": [90.0, 60.0, 60.0]}
    result = make_result(history=history)
    assert tables.first_epoch_above(result, 0.2) == "epoch 2, 2 min"
    assert tables.first_epoch_above(result, 0.3) == "–"
    history["val_top1"][0] = None  # not evaluated
    assert tables.first_epoch_above(result, 0.05) == "epoch 2, 2 min"
    legs = [{"epoch": i, "step": 0, "env": {"device": device}} for i, device in enumerate("aba")]
    assert tables.first_epoch_above(result | {"legs": legs[:2]}, 0.2) == "epoch 2"
    assert results.devices_of(result | {"legs": legs}) == ["a", "b"]
    alone = result | {"seconds": {"total": 210.0, "epoch": 45.0}}
    assert tables.first_epoch_above(alone, 0.2) == "epoch 2, 2 min"
    assert (results.elapsed(result), results.elapsed(alone)) == (210, 135)
    evaluated = {"epoch": 3, "step": 0, "env": {"device": "c"}}
    assert results.devices_of(result | {"legs": [legs[0], evaluated]}) == ["a"]
    assert results.training_env(result | {"legs": [legs[0], evaluated]}) == {"device": "a"}


def test_calibration():
    table = calibration(
        {
            "probabilities": np.array([[0.9], [0.9], [0.95], [0.35], [0.3], [1.0]]),
            "classes": np.array([[1], [1], [1], [1], [1], [1]]),
            "labels": np.array([1, 1, 0, 1, 0, 1]),
        },
        bins=5,
    )
    np.testing.assert_allclose(table["confidence"], [0.325, 0.9375])
    np.testing.assert_allclose(table["accuracy"], [0.5, 0.75])
    assert list(table["images"]) == [2, 4]
    error = (2 * 0.175 + 4 * 0.1875) / 6
    assert expected_calibration_error(table) == pytest.approx(error)


def test_committed_results_can_be_read():
    for path in results.result_path("report/results", "x").parent.glob("*.json"):
        result = results.read_result(path)
        assert result["run_id"] == path.stem
        if result["status"] == "running":  # somebody trains while the tests run
            continue
        assert result["status"] == "complete"
        if result["kind"] != "benchmark":  # Tiny ImageNet has no masks
            assert result["dataset"]["synthetic"] == (result["task"] == "segmentation")
        is_main = result["kind"] == "train" and result["task"] == "classification"
        has_weights = Path(f"report/weights/{path.stem}.keras").exists()
        if is_main and (has_weights or path.with_suffix(".npz").exists()):
            kept = load_predictions(path.with_suffix(".npz"))
            top1 = (kept["classes"][:, 0] == kept["labels"]).mean()
            assert top1 == pytest.approx(result["metrics"]["top1"], abs=1e-3)
        json.dumps(result, allow_nan=False)


def test_networks_of_which_something_is_kept(tmp_path):
    for name in ("a.keras", "b.npz"):
        (tmp_path / name).touch()
    runs = [{"run_id": name} for name in "abc"]
    assert tables.kept(runs, tmp_path) == [runs[0]]
    assert tables.kept(runs, tmp_path, ".npz") == [runs[1]]


@pytest.mark.tracing
@pytest.mark.parametrize("path", sorted(Path("report/weights").glob("*.keras")), ids=str)
def test_committed_weights_are_of_committed_results(path):
    result = results.read_result(f"report/results/{path.stem}.json")
    model = keras.models.load_model(path)
    assert count_parameters(model) == result["model"]["parameters"]
    if result["task"] != "classification":  # no predictions are kept of other tasks
        return
    kept = load_predictions(f"report/results/{path.stem}.npz")
    options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
    images = np.stack([decode_jpeg(jpeg, **options) for jpeg in kept["jpeg"]])
    probabilities = keras.ops.softmax(model(images)).numpy()  # not traced
    chosen = np.take_along_axis(probabilities, kept["classes"][kept["sample"]].astype(int), axis=1)
    # Kernels are kept in float16, and what was predicted in bfloat16 has 8 bits.
    atol = 1e-2 if result["config"].get("precision", "float32") == "float32" else 0.1
    np.testing.assert_allclose(chosen, kept["probabilities"][kept["sample"]], atol=atol)


def test_seeds_are_taken_together_and_networks_are_compared_at_equal_epochs():
    def run(run_id, top1, **changes):
        metrics = {"top1": top1, "top5": 0.75, "loss": 1.0, "split": "val"}
        preset = run_id.split("-")[0]
        dataset = {"counts": {"validation": 10_000}}
        changes |= {"preset": preset, "metrics": metrics, "dataset": dataset}
        return make_result(run_id=run_id, **changes)

    clean = {"metrics_train": {"top1": 0.7}}
    runs = [
        run("complex-course-2ep-seed0", 0.2, recipe="course"),
        run("simple-tuned-2ep-seed0", 0.50, **clean),
        run("simple-tuned-2ep-seed1", 0.54, **clean),
        run("simple-tuned-2ep-stem-half-seed0", 0.6, config={"stem": "half"}),
    ]
    rows = tables.summary(runs)
    assert list(rows["network"]) == ["simple, stem of stride 2", "simple", "complex"]
    assert list(rows["n"]) == [1, 2, 1]
    half = run("simple-half", 0.9, env={"device": "a CPU", "precision": "mixed_bfloat16"})
    in_order = run("simple-classes", 0.1, config={"record_order": "classes"})
    assert sorted(tables.summary([*runs, half, in_order])["n"]) == [1, 1, 1, 1, 2]  # no seeds
    np.testing.assert_allclose(rows["error"], [0.24**0.5 / 100, 0.02 * 2**0.5, 0.4 / 100])
    equal = [run(f"simple-tuned-2ep-seed{seed}", 0.5, **clean) for seed in (0, 1)]
    assert tables.summary(equal)["error"].tolist() == [0.5 / 100]  # they may agree by chance
    lines = tables.markdown_results(runs).splitlines()
    assert lines[:2] == ["Recipe `tuned-v1`:", ""]
    assert lines[5] == (
        "| 2 | simple (2 seeds) | 654,200 | 14 | 0 | 70.0% | **52.0\u00a0±\u00a02.8%** | 75.0% |"
    )
    assert lines[7] == "Recipe `course`:"
    assert lines[11].split(" | ")[5] == "50.0% †"  # the mean of an epoch
    assert lines[12] == (
        "| 30 | *the course report's simple* | 667,584 | – | 64 | 23.6% | 5.3% | – |"
    )
    assert lines[-1].startswith("| 30 | *the course report's ResNet* ")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"stem": "imagenet", "ema": 0.0, "l2": 5e-4, "activation": None}, "simple"),
        ({"stem": "half", "activation": "silu", "image_sizes": "32x1-64x1"},
         "simple, stem of stride 2, SiLU, progressive resizing"),
        ({"width": 0.375, "learning_rate": 1 / 6}, "simple, width 0.375, learning rate 0.1667"),
        ({"batch_norm_momentum": 0.99, "precision": "mixed_bfloat16", "batch_size": 256},
         "simple, BatchNorm momentum 0.99"),
        ({"crop_area": 0.25, "label_smoothing": 0.1, "batch_size": 1000},
         "simple, resized crops, label smoothing 0.1, batches of 1000"),
    ],
)  # fmt: skip
def test_a_network_is_named_by_what_its_run_changes(config, words):
    assert tables.network_of(make_result(run_id="whatever", config=config)) == words


def test_markdown_of_times_has_the_course_report_s_levels(monkeypatch):
    course = tables.COURSE_REPORT.assign(val_top1=[0.1, 0.2, 0.3, 0.9])
    monkeypatch.setattr(tables, "COURSE_REPORT", course)
    runs = [
        make_result(run_id="simple-tuned-2ep-seed0", seed=0),
        make_result(run_id="b-seed1", seed=1, config={"stem": "half"}),
    ]
    second = "epoch\u00a02,\u00a00\u00a0min"
    assert tables.markdown_times(runs).splitlines() == [
        "| network | recipe | epochs | the course report's best FishNet, 30.0% "
        "| the course report's ResNet, 90.0% | 40% |",
        "|---|---|---|---|---|---|",
        f"| simple | tuned\u2011v1 | 2 | {second} | – | {second} |",
        f"| simple, stem of stride 2 (seed 1) | tuned\u2011v1 | 2 | {second} | – | {second} |",
    ]


def test_published_numbers_name_their_sources():
    for table in (published.LITERATURE, published.IMAGENET):
        assert table["source"].str.contains(r"\.(?:com|io)/").all()
        assert table["top1"].between(0.5, 0.8).all()


def test_readme_and_model_card_are_in_step_with_the_results():
    runs = results.load_results("report/results")
    texts = tables.filled_in(runs, "report/results")
    files = ("README.md", "docs/library.md", "report/weights/README.md", "report/results.csv")
    assert set(texts) == {Path(file) for file in files}
    for path, text in texts.items():
        assert text == path.read_text(), path
    with pytest.raises(ValueError, match="marks of section 'nothing' are missing"):
        tables.fill_in("", "nothing", "")


@pytest.mark.parametrize("commit", ["8299620b0c2d", "8299620b0c2d-dirty", None])
def test_a_run_says_when_no_commit_holds_its_code(commit, monkeypatch, capsys):
    monkeypatch.setattr("utils.environment.describe", lambda precision: {"git_commit": commit})
    manifest = {"dataset": "tiny-shapes", "counts": {}, "synthetic": True}
    result = results.new_result(RunConfig(), manifest)
    assert result["env"] == {"git_commit": commit}
    said = "The project has uncommitted changes: no commit will make this result again.\n"
    assert capsys.readouterr().out == (said if commit and "dirty" in commit else "")


CONFUSED = {
    "labels": np.array([0, 0, 0, 0, 1, 1, 2, 2]),
    "classes": np.array([1, 1, 1, 1, 0, 2, 2, 1])[:, None],
    "words": np.array(["cat", "dog", "fox"]),
    "probabilities": np.array([0.3, 0.9, 0.5, 0.7, 0.4, 0.4, 0.4, 0.8])[:, None],
}


def test_confusions_by_hand():
    assert confused_images(CONFUSED) == [[1, 3, 2, 4], [5, 7]]
    rows = confused_pairs(CONFUSED).values.tolist()
    assert sorted(rows) == [["cat", "dog", 4, 1, 5], ["dog", "fox", 1, 1, 2]]


@pytest.mark.parametrize(
    ("instructions", "shown"), [(["avx2"], "| 40 § |"), (["avx2", "avx512f"], "| 40 |")]
)
def test_seconds_of_a_cpu_without_avx512_are_marked(instructions, shown):
    measured = {"seconds": {"epoch": 40.0}, "epoch_env": {"instructions": instructions}}
    dataset = {"counts": {"validation": 10_000}}
    assert shown in tables.markdown_results([make_result(dataset=dataset, **measured)])


def test_seconds_are_those_of_the_fastest_seed():
    def run(seed, seconds, **changes):
        history = {name: [0.5] for name in results.history_names()} | {"seconds": [seconds]}
        counts = {"counts": {"validation": 10_000}}
        return make_result(run_id=f"a-seed{seed}", history=history, dataset=counts, **changes)

    runs = [run(0, 30.0), run(1, 20.0, metrics_train={"top1": 0.7})]
    (row,) = tables.summary(runs).to_dict("records")
    assert row["s / epoch"] == 20
    runs[1]["epoch_env"] = {"instructions": ["avx2"]}  # of the fastest alone
    assert tables.summary(runs)["avx2"].tolist() == [True]
    runs[0]["epoch_env"] = runs[1].pop("epoch_env")
    assert tables.summary(runs)["avx2"].tolist() == [False]
    assert not row["clean"]  # one of the two is the mean of an epoch
