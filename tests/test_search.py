"""The sweep's own work; the processes that it starts stand in for papermill but in the notebook."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from utils.experiments import processes, search
from utils.files import DamagedFile
from utils.training.results import history_names

ROOT = Path(__file__).parents[1]

# Writes a result as training does, an epoch at a time, and goes on where it was.
STAND_IN = """
import json, sys, time
from filelock import FileLock
from pathlib import Path
file, options = Path(sys.argv[1]), json.loads(sys.argv[2])
file.parent.mkdir(parents=True, exist_ok=True)
with FileLock(file.with_name("lock")):  # as a training holds its folder
    with file.with_name("starts").open("a") as starts:
        starts.write("x")
    result = json.loads(file.read_text()) if file.exists() else options["result"]
    if options["fails"]:
        sys.exit("out of paint")
    for epoch in range(len(result["history"]["val_top1"]), 3):
        time.sleep(options["seconds"])
        while epoch == 2 and options["waits_for"] and not Path(options["waits_for"]).exists():
            time.sleep(0.02)
        for name in result["history"]:
            result["history"][name].append(options["top1"] * (epoch + 1) / 3)
        result["status"] = "complete" if epoch == 2 else "running"
        result["metrics"] = {"top1": result["history"]["val_top1"][-1]}
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(result))
        temporary.replace(file)
"""


def start_stand_in(config, *, fails=False, seconds=0.0, waits_for=None):
    """Takes the place of `processes.start`: top-1 grows with dropout, or the learning rate."""
    top1 = config.dropout or config.learning_rate or 0.1
    result = {"schema": 1, "run_id": config.run_id, "kind": "ablation", "status": "running"}
    result |= {"config": config.identity()}
    result |= {
        "model": {"parameters": 7, "macs": 70},
        "history": {name: [] for name in history_names()},
    }
    options = {"result": result, "top1": top1, "fails": fails, "seconds": seconds}
    options["waits_for"] = waits_for
    arguments = [str(config.result_file), json.dumps(options)]
    log = processes.log_file(config)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", STAND_IN, *arguments], stderr=output, start_new_session=True
        )


@pytest.fixture
def options(tmp_path):
    runs_dir = str(tmp_path / "runs")
    return {"journal": tmp_path / "journal.log", "dataset": "tiny-shapes", "runs_dir": runs_dir}


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(search, "POLL", 0.05)

    def use(**how):
        monkeypatch.setattr(processes, "start", lambda config: start_stand_in(config, **how))

    use()
    return use


def starts(options, run_id):
    return len(Path(options["runs_dir"], run_id, "starts").read_text())


def test_points_of_a_grid_are_runs():
    (first, *_, last) = (search.run_config(point) for point in search.points("size"))
    assert first.run_dir == "runs/search-width-0.125-seed0"
    assert last.run_dir == "runs/search-width-0.375-blocks-4-seed0"
    assert (last.network.network_planes[0], last.network.num_res_blks[0]) == (24, 4)
    assert (last.kind, last.split, last.epochs) == ("ablation", "holdout", 5)
    assert len(search.points("size")) == 9


def test_the_default_is_the_run_that_ablations_have_already():
    defaults = [point for name in search.SPACES for point in search.points(name)]
    names = [search.run_config(point, seed=1).run_id for point in defaults]
    assert names.count("why-default-seed1") == 5
    assert len(set(names)) == len(names) - 4


def test_optimizers_have_rates_of_their_own():
    found = search.run_config({"optimizer": "adamw", "rate": 1 / 3})
    assert found.full_recipe.learning_rate == pytest.approx(1e-3)
    assert found.full_recipe.l2 == 0.0  # its weight decay is its own
    assert found.run_id == "search-optimizer-adamw-learning-rate-0.001-seed0"
    assert search.run_config({"optimizer": "sgd", "rate": 3}).full_recipe.learning_rate == 1.5
    assert search.run_config({"optimizer": "rmsprop", "rate": 1}).full_recipe.l2 == 5e-4


def test_a_grid(stand_in, options, capsys):
    study = search.sweep("dropout", **options)
    values = {trial.params["dropout"]: trial.value for trial in study.trials}
    assert values == pytest.approx({0.0: 0.1, 0.2: 0.2, 0.5: 0.5})
    assert study.best_trial.intermediate_values == pytest.approx({0: 0.5 / 3, 1: 1 / 3, 2: 0.5})
    log = capsys.readouterr().out.splitlines()
    assert log[-1] == "dropout: dropout 0.5: top-1 50.0%; 0 left"
    again = search.sweep("dropout", **options)
    assert len(again.trials) == 3
    assert capsys.readouterr().out == ""
    del options["journal"]
    rows = search.study_table("dropout", **options)
    assert rows["dropout"].tolist() == [0.0, 0.2, 0.5]
    assert rows["changed"].tolist() == ["0", "0.2", "0.5"]
    assert rows["difference"].tolist() == pytest.approx([0, 10, 40])
    assert rows["default_n"].tolist() == [1, 1, 1]  # seed 1 has not been run
    assert rows["run"].tolist()[0] == "why-default-seed0"


def test_results_that_are_there_are_not_made_again(stand_in, options, capsys):
    search.sweep("dropout", **options)
    capsys.readouterr()
    options["journal"] = options["journal"].with_name("other.log")
    study = search.sweep("dropout", **options)
    assert capsys.readouterr().out == ""
    assert [trial.value for trial in study.trials] == pytest.approx([0.1, 0.2, 0.5])
    assert starts(options, "search-dropout-0.5-seed0") == 1


@pytest.mark.parametrize("elsewhere", [True, False])
def test_results_that_are_gone_are_made_again(stand_in, options, tmp_path, elsewhere):
    """Though the journal has their points: 06 reads the results."""
    search.sweep("dropout", **options)
    name = "search-dropout-0.5-seed0"
    if elsewhere:
        options["results_dir"] = str(tmp_path / "mine")
    else:
        Path(options["runs_dir"], name, f"{name}.json").unlink()
    study = search.sweep("dropout", **options)
    assert len(study.trials) == 3
    del options["journal"]
    assert len(search.study_table("dropout", **options)) == 3
    if elsewhere:
        assert len((tmp_path / "mine/starts").read_text()) == 3
    else:
        assert starts(options, name) == 2


def test_a_failed_run_stops_the_sweep_and_is_tried_again(stand_in, options):
    stand_in(fails=True)
    with pytest.raises(RuntimeError, match=r"why-default-seed0 failed; see the end of .*log.txt"):
        search.sweep("dropout", **options)
    assert "out of paint" in Path(options["runs_dir"], "why-default-seed0/log.txt").read_text()
    stand_in()
    study = search.sweep("dropout", **options)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert sorted(trial.value for trial in complete) == pytest.approx([0.1, 0.2, 0.5])


def other_sweep(options, **how):
    """A sweep in a process of its own, once its first run has a result."""
    keywords = {**options, "journal": str(options["journal"])}
    script = f"""if True:
        import test_search as t
        t.processes.start = lambda config: t.start_stand_in(config, **{how!r})
        t.search.sweep("dropout", **{keywords!r})
    """
    path = f"{ROOT}:{ROOT / 'tests'}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={"PYTHONPATH": path, "HOME": "/"}
    )
    while not list(Path(options["runs_dir"]).glob("*/*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_killed_sweep_goes_on(stand_in, options):
    """What it had started is waited for, and what it had not is started."""
    killed = other_sweep(options, seconds=0.5)
    killed.kill()
    killed.wait()
    found = search.sweep("dropout", **options)
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE] * 3
    assert [trial.params for trial in found.trials] == search.points("dropout")
    for trial in found.trials:
        assert starts(options, trial.user_attrs["run_id"]) == 1


def test_two_processes_share_a_study(stand_in, options):
    """What another one works at is neither run twice nor forgotten."""
    last = "search-dropout-0.5-seed0"
    other = other_sweep(options, waits_for=f"{options['runs_dir']}/{last}/{last}.json")
    search.sweep("dropout", **options)
    assert other.wait() == 0
    found = search.open_study("dropout", options["journal"])
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE] * 3
    assert found.trials[0].params != {"dropout": 0.0}  # that is what the other one is slow at
    for trial in found.trials:
        assert starts(options, trial.user_attrs["run_id"]) == 1


def test_a_lock_that_a_killed_search_has_left(tmp_path, monkeypatch):
    """As Optuna's own lock leaves it, with the relative path of the default journal."""
    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/journal.log.lock").symlink_to("runs/x/journal.log")
    opened = []
    thread = threading.Thread(
        target=lambda: opened.append(search.open_study("dropout", "runs/x/journal.log")),
        daemon=True,
    )
    thread.start()
    thread.join(timeout=20)
    assert [study.study_name for study in opened] == ["dropout"]


def test_the_command_is_that_of_papermill(monkeypatch, tmp_path):
    called = {}
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda command, **how: called.update(how, command=command)
    )
    monkeypatch.setenv("FISHNET_QUICK", "quick")
    config = search.run_config({"dropout": 0.2}, runs_dir=str(tmp_path))
    processes.start(config)
    text = " ".join(called["command"][1:])
    assert text.startswith(f"-m papermill notebooks/03_train.ipynb {config.run_dir}/03_train.ipynb")
    assert "-p dropout 0.2" in text
    assert "-p split holdout" in text
    assert re.search(r"-p fraction 0\.333", text)
    assert "FISHNET_QUICK" not in called["env"]


def test_unknown_study():
    message = r"study must be one of down_sampling, activation, .*, size\. Received: 'depth'"
    with pytest.raises(ValueError, match=message):
        search.open_study("depth", "journal.log")
    with pytest.raises(ValueError, match=message):
        search.study_names(["size", "depth"])


def test_one_study_or_several():
    assert search.study_names("activation") == ["activation"]  # as in `-p studies activation`
    assert search.study_names(["size", "dropout"]) == ["size", "dropout"]


def test_a_journal_whose_copy_was_interrupted(tmp_path):
    journal = tmp_path / "journal.log"
    study = search.open_study("dropout", journal)
    study.enqueue_trial({"dropout": 0.2})
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])  # in the middle of the last line
    assert not search.open_study("dropout", journal).trials
    search.open_study("dropout", journal).enqueue_trial({"dropout": 0.5})
    assert len(search.open_study("dropout", journal).trials) == 1
    journal.write_bytes(whole[:20] + b"\0\n" + whole[20:])
    with pytest.raises(DamagedFile) as error:
        search.open_study("dropout", journal)
    assert str(error.value).startswith(f"{journal} is damaged or half-written (")
    assert str(error.value).endswith("or delete it: the runs' results are kept, and count at once.")
