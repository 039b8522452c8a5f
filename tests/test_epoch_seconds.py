import json
import sys

import pytest

from utils.experiments import benchmark
from utils.training.config import RunConfig
from utils.training.results import read_result

RUN = "complex-tuned-v2-30ep-activation-silu-seed0"


@pytest.fixture
def result():
    return read_result(f"report/results/{RUN}.json")


def test_the_short_run_differs_in_length_and_seed_alone(result):
    result["config"]["seed"] = 7
    options = benchmark.measured_options(result)
    assert options == {
        **{"preset": "complex", "activation": "silu", "precision": "mixed_bfloat16"},
        **{"epochs": 3, "fraction": 0.1, "kind": "ablation", "batch_size": 256},
    }
    theirs, ours = result["config"], RunConfig(**options).identity()
    fields = {name for name in theirs if theirs[name] != ours[name]} - {"recipe_fields"}
    assert fields == {"epochs", "fraction", "kind", "seed"}


def test_training_is_scaled_to_a_whole_epoch_and_evaluation_is_not():
    # 1000 images in 5, 2 and 4 seconds, evaluated in 1 second
    history = {"seconds": [6.0, 3.0, 5.0], "images_per_second": [200.0, 500.0, 250.0]}
    assert benchmark.epoch_seconds(history, images=1000) == pytest.approx(2 / 0.1 + 1)


def test_only_runs_of_this_kind_of_machine_and_of_one_image_size_are_measured(result):
    assert benchmark.is_measurable(result, "AMD EPYC")
    result["config"]["image_sizes"] = "32x1-64x1"
    assert not benchmark.is_measurable(result, "AMD EPYC")
    result["config"]["image_sizes"] = None
    result["legs"][0]["env"]["device"] = "NVIDIA H100"
    assert not benchmark.is_measurable(result, "AMD EPYC")


def test_the_command_measures_what_is_missing_once(monkeypatch, tmp_path, result, capsys):
    for seed in (0, 1):
        result |= {"run_id": f"run-seed{seed}", "seed": seed}
        result["seconds"].pop("epoch", None)
        result["config"]["seed"] = seed
        (tmp_path / f"run-seed{seed}.json").write_text(json.dumps(result))
    history = {"seconds": [9.0, 3.0], "images_per_second": [1.0, 39 * 256 / 2]}
    measured = []
    env = {"device": "a CPU", "git_commit": "abc-dirty"}
    monkeypatch.setattr(
        benchmark,
        "measure",
        lambda *_, **run: measured.append(run) or {"history": history, "env": env},
    )
    monkeypatch.setattr(benchmark, "device_name", lambda _: benchmark.environment._cpu_name())
    command = ["benchmark", "--results-dir", str(tmp_path)]
    for arguments, times in (([], 1), ([], 1), (["--again"], 2)):
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        benchmark.main()
        assert len(measured) == times
    assert capsys.readouterr().out.count("21.0 s an epoch | run-seed") == 4
    for seed in (0, 1):
        found = read_result(tmp_path / f"run-seed{seed}.json")
        assert found["seconds"] == {"total": result["seconds"]["total"], "epoch": 21.0}
        assert found["epoch_env"]["device"] == "a CPU"
        assert found["epoch_env"]["git_commit"] != "abc-dirty"  # that of the beginning
        assert found["history"] == result["history"]
    assert {run["backend"] for run in measured} == {"tensorflow"}

    result |= {"run_id": "run-seed2", "seed": 2}  # a further seed takes as long
    (tmp_path / "run-seed2.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert len(measured) == 2
    assert read_result(tmp_path / "run-seed2.json")["seconds"]["epoch"] == 21

    monkeypatch.setattr(sys, "argv", [*command, "--again"])
    monkeypatch.setattr(benchmark, "measure", lambda *_, **run: {"error": "killed"})
    with pytest.raises(RuntimeError, match="run-seed[012]: killed"):
        benchmark.main()
    assert read_result(tmp_path / "run-seed0.json")["seconds"]["epoch"] == 21
