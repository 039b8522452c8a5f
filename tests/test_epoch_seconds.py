import json
import sys

import pytest

from utils import environment
from utils.experiments import benchmark
from utils.training.config import RunConfig
from utils.training.results import read_result

RUN = "complex-tuned-v2-30ep-activation-silu-seed0"


@pytest.fixture
def result():
    """Of a run as if on this machine, where no epoch of it was measured."""
    result = read_result(f"report/results/{RUN}.json")
    del result["seconds"]["epoch"], result["epoch_env"]
    for leg in result["legs"]:
        leg["env"] |= {name: environment.describe()[name] for name in ("device", "instructions")}
    return result


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


def run_command(monkeypatch, tmp_path, result, measured):
    """Runs the command on one result; `measured` is called with what would be measured."""
    path = tmp_path / f"{result['run_id']}.json"
    path.write_text(json.dumps(result))
    monkeypatch.setattr(benchmark, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--results-dir", str(tmp_path)])
    benchmark.main()
    return read_result(path)["seconds"].get("epoch")


@pytest.mark.parametrize("other", [{"device": "NVIDIA H100"}, {"instructions": ["sse2"]}])
def test_runs_of_other_machines_are_not_measured(monkeypatch, tmp_path, result, other):
    result["legs"][0]["env"] |= other
    assert run_command(monkeypatch, tmp_path, result, lambda *_, **run: pytest.fail(run)) is None


def test_an_epoch_of_a_resized_run_is_the_mean_over_its_sizes(monkeypatch, tmp_path, result):
    result["config"] |= {"stem": "half", "image_sizes": "32x15-48x10-64x5"}
    train = {"32x1": 1.0, "48x1": 2.0, "64x1": 4.0}  # seconds of a tenth

    def measured(_, image_sizes, **run):
        seconds = train[image_sizes]
        history = {"seconds": [9.0, seconds + 3], "images_per_second": [1.0, 39 * 256 / seconds]}
        return {"history": history, "env": {}}

    found = run_command(monkeypatch, tmp_path, result, measured)
    assert found == pytest.approx((15 * 10 + 10 * 20 + 5 * 40) / 30 + 3, abs=0.05)


def test_the_command_measures_what_is_missing_once(monkeypatch, tmp_path, result, capsys):
    for seed in (0, 1):
        result |= {"run_id": f"run-seed{seed}", "seed": seed}
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
    with pytest.raises(
        RuntimeError, match="run-seed[012]: The measurement of training failed: killed"
    ):
        benchmark.main()
    assert read_result(tmp_path / "run-seed0.json")["seconds"]["epoch"] == 21
