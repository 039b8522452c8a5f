"""Every committed number names a command that makes it, and that command exists."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from papermill.cli import _resolve_type
from papermill.cli import papermill as papermill_command

from utils.experiments import catalog
from utils.experiments.ablations import ablation_runs, batch_statistics_id
from utils.experiments.layers_in_call.variants import Variant, run_id
from utils.export import parity
from utils.training.config import RunConfig
from utils.training.results import read_result

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "report/results").glob("*.json"))


def papermill_arguments(command):
    """The notebook and the parameters of a papermill command, as papermill itself reads them."""
    program, *arguments = shlex.split(command)
    assert program == "papermill"
    found = papermill_command.make_context(program, arguments).params
    return found["notebook_path"], {k: _resolve_type(v) for k, v in found["parameters"]}


def notebook_parameters(path):
    """The names that the parameters cell of a notebook sets."""
    cells = json.loads((ROOT / path).read_text())["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return {node.targets[0].id for node in ast.parse("".join(cell["source"])).body}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_command_of_a_result_exists(path, monkeypatch):
    result = read_result(path)
    assert result["run_id"] == path.stem
    command = result["command"]
    if module := re.fullmatch(r"python -m (utils\.experiments\.catalog) (\w+)", command):
        assert module[2] in catalog.EXPERIMENTS
    elif command.startswith("python -m utils.experiments.layers_in_call.train "):
        words = shlex.split(command)[3:]
        options = dict(zip(words[::2], words[1::2], strict=True))
        variant = Variant(options["--which"], options["--manner"])
        name = run_id(options["--preset"], variant.which, variant.manner, int(options["--seed"]))
        assert name == path.stem
    elif command == "python -m utils.analysis.gradients":
        assert path.stem in {run.run_id for run in catalog.gradient_runs()}
    elif command == "python -m utils.export.parity --authors-code FishNet":
        done = []
        monkeypatch.setattr(parity, "measure", lambda *folders: done.append(folders))
        monkeypatch.setattr("sys.argv", command.split()[2:])
        parity.main()
        assert done == [("data/tiny-imagenet", "report/results", "FishNet")]
    elif command == "pytest -m slow tests/test_kills.py":
        text = (ROOT / "tests/test_kills.py").read_text()
        assert "@pytest.mark.slow\ndef test_fifty_kills(" in text
    else:
        notebook, parameters = papermill_arguments(command)
        assert set(parameters) <= notebook_parameters(notebook)
        if notebook == "notebooks/03_train.ipynb":
            config = RunConfig(**parameters)
            assert config.run_id == path.stem
            assert config.differences({**result["config"], "manifest_sha256": "0"}, "0") == {}


def test_the_catalog_makes_all_ablations_and_nothing_else():
    found = {path.stem for path in COMMITTED}
    kinds = {path.stem: json.loads(path.read_text())["kind"] for path in COMMITTED}
    other = {name for name in found if name.startswith("layers-in-call-")}  # with Keras 2
    made = {run.run_id: run for runs in catalog.EXPERIMENTS.values() for run in runs()}
    default, *_ = ablation_runs()
    again = {batch_statistics_id(default.run_id, order) for order in ("shuffled", "classes")}
    assert {*made, *again} == {name for name in found - other if kinds[name] == "ablation"}
    for name, run in made.items():
        assert run.result_file == Path("report/results", f"{name}.json")
        found = json.loads((ROOT / run.result_file).read_text())["config"]
        assert run.differences({**found, "manifest_sha256": "0"}, "0") == {}


def test_a_named_experiment_is_run(monkeypatch):
    done = []
    monkeypatch.setattr(catalog, "run_missing", lambda runs: done.extend(r.run_id for r in runs))
    monkeypatch.setattr(catalog, "evaluate_missing_batch_statistics", lambda: done.append("again"))
    monkeypatch.setattr(catalog, "sweep", lambda name, journal: done.append((name, journal)))
    catalog.run("cost")
    assert done == [
        "cost-simple-graph-seed0",
        "cost-simple-eager-seed0",
        "cost-resnet-report-seed0",
    ]
    catalog.run("size")
    assert done[3:] == [("size", "runs/search/journal.log")]
    catalog.run("ablations")
    assert done[4:] == [*(run.run_id for run in ablation_runs()), "again"]


def test_an_unknown_experiment_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["catalog", "depth"])
    with pytest.raises(SystemExit):
        catalog.main()
    assert "invalid choice: 'depth'" in capsys.readouterr().err
