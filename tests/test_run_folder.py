import dataclasses
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import runs
from filelock import FileLock

from utils.analysis.classify import load_classifier
from utils.files import DamagedFile
from utils.training import run_folder
from utils.training.predictions import load_predictions
from utils.training.results import read_result
from utils.training.run import train
from utils.training.run_folder import (
    CheckpointError,
    DamagedCheckpoint,
    TrainingError,
    TrainState,
    checkpoints_in,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    wait_for_others,
)

pytestmark = pytest.mark.tracing

ROOT = Path(__file__).parents[1]
SECOND = """
import fcntl
from pathlib import Path
from utils.training import run_folder
def flock(handle, flags):
    raise OSError(38, "no locks")
fcntl.flock, run_folder.LEASE_SECONDS = flock, 3.0
with run_folder.lock(Path({folder!r})):
    pass
"""


def variables(value=0.0):
    return {"a": keras.Variable([value]), "b": keras.Variable(value)}


def save(folder, epoch, step=0):
    save_checkpoint(folder, variables(epoch), TrainState({"loss": [0.5] * epoch}, epoch, step, 1.5))


def names_in(folder):
    return sorted(path.name for path in Path(folder, "checkpoints").iterdir())


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    save(tmp_path, 2, 7)
    assert newest_checkpoint(tmp_path) == (2, 7)
    arrays, state = read_checkpoint(checkpoints_in(tmp_path)[0], variables())
    assert (arrays["a"], arrays["b"]) == ([2.0], 2.0)
    assert state == TrainState({"loss": [0.5, 0.5]}, 2, 7, 1.5)


def test_the_newest_checkpoint_is_that_of_most_epochs(tmp_path):
    for epoch in (9998, 9999, 10_000, 10_001):
        save(tmp_path, epoch)
    assert newest_checkpoint(tmp_path) == (10_001, 0)
    assert names_in(tmp_path) == [f"epoch-{n}-step-0000000.npz" for n in (10_000, 10_001)]


def test_checkpoint_of_another_model_is_named(tmp_path):
    save(tmp_path, 1)
    (path,) = checkpoints_in(tmp_path)
    other = {"a": keras.Variable([1.0, 2.0]), "c": keras.Variable(0.0)}
    with pytest.raises(CheckpointError, match=r"optimizer: b, c, a\. Use another run"):
        read_checkpoint(path, other)


def test_no_damaged_byte_goes_unnoticed(tmp_path):
    """Each byte of a checkpoint is changed; it is refused, or reads as it was written."""
    save(tmp_path, 1)
    (path,) = checkpoints_in(tmp_path)
    content, refused = path.read_bytes(), 0
    whole = read_checkpoint(path, variables())
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        )
        try:
            assert read_checkpoint(path, variables()) == whole
        except DamagedCheckpoint as error:
            assert f"{path} is damaged (" in str(error)  # noqa: PT017
            refused += 1
    assert refused > len(content) / 2  # the rest: zip files hold times and attributes too


@pytest.mark.parametrize("error", [OSError(errno.EIO, "drive"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    tmp_path, monkeypatch, error
):
    def fail(archive):
        raise error

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.testzip", fail)
        with pytest.raises(type(error)):
            newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path) == (1, 0)


def test_a_copy_that_a_drive_has_made_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (path,) = checkpoints_in(tmp_path)
    shutil.copy(path, path.with_stem(f"{path.stem} (1)"))
    assert checkpoints_in(tmp_path) == [path]


def test_a_good_checkpoint_outlives_a_newer_damaged_one(tmp_path, capsys):
    for epoch in (1, 2):
        save(tmp_path, epoch)
    runs.damage(run_folder.checkpoint_path(tmp_path, 2, 0))
    save(tmp_path, 3)
    assert names_in(tmp_path) == [
        "epoch-0001-step-0000000.npz",
        "epoch-0002-step-0000000.npz.damaged",
        "epoch-0003-step-0000000.npz",
    ]
    text = "epoch-0002-step-0000000.npz is damaged (wrong checksum of"
    assert text in (log := capsys.readouterr().out)
    assert "It is set aside as epoch-0002-step-0000000.npz.damaged." in log


def test_new_checkpoints_outlive_damaged_ones_of_a_higher_number(tmp_path):
    for epoch in (4, 5):
        save(tmp_path, epoch)
        runs.damage(run_folder.checkpoint_path(tmp_path, epoch, 0))
    assert newest_checkpoint(tmp_path) is None
    for epoch in (1, 2, 3):
        save(tmp_path, epoch)
        assert newest_checkpoint(tmp_path) == (epoch, 0)
    assert [path.name[:10] for path in checkpoints_in(tmp_path)] == ["epoch-0003", "epoch-0002"]
    assert [n[:10] for n in names_in(tmp_path) if "damaged" in n] == ["epoch-0004", "epoch-0005"]


def test_files_whose_copy_was_interrupted_are_named_and_made_again(make_config):
    config = make_config(epochs=1)
    expected = train(config)
    folder = Path(config.run_dir)

    def refusal(name, use, half=0.5):
        file = folder / name
        data = file.read_bytes()
        file.write_bytes(data[: int(half * len(data))])
        with pytest.raises(DamagedFile) as error:
            use()
        file.unlink()
        again = "Copy it again from where it is whole, or "
        begin, _, remedy = str(error.value).partition(again)
        assert begin.startswith(f"{file} is damaged or half-written (")
        return remedy

    shutil.copytree(folder, folder.with_name("my copy"))
    assert len(load_classifier(str(folder.with_name("my copy")))[1]) == 24
    assert refusal("model.keras", lambda: load_classifier(config.run_dir)) == (
        "train its network again."
    )
    incomplete = (
        f"{folder} has no model.keras. If its run is not complete, repeat its command, which "
        "continues it; a run whose weights are kept elsewhere is loaded by its name alone."
    )
    with pytest.raises(ValueError, match=re.escape(incomplete)):
        load_classifier(config.run_dir)
    for half in (0.5, 0):
        shutil.copy(folder / "run.npz", folder / "copy.npz")
        assert refusal("copy.npz", lambda: load_predictions(folder / "copy.npz"), half) == (
            "delete it and the run's JSON, and the command of its run writes both anew."
        )
    (folder / "run.npz").unlink()
    assert refusal("run.json", lambda: train(config)) == (
        "delete it, and the command of its run writes it anew."
    )
    assert refusal("config.json", lambda: train(config)) == (
        "delete it, and the run goes on with the parameters that you give; give those it had."
    )
    found = train(config)
    assert found["history"] == expected["history"]
    assert found["metrics"] == expected["metrics"]
    assert len(load_classifier(config.run_dir)[1]) == 24


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew(make_config, killed, capsys):
    whole, cut = train(make_config("whole", epochs=2)), make_config("cut", epochs=2)
    killed(cut, 1)
    (only,) = checkpoints_in(cut.run_dir)
    later = run_folder.checkpoint_path(cut.run_dir, 1, 2)
    later.write_bytes(only.read_bytes()[:-100])
    runs.damage(only)
    capsys.readouterr()
    killed(cut, 1)
    log = capsys.readouterr().out
    assert log.count(".npz.damaged") == 2
    assert "Continuing" not in log
    assert runs.learned(train(cut)) == runs.learned(whole)
    assert "Continuing cut after epoch 1." in capsys.readouterr().out


def test_a_full_disk_leaves_the_checkpoints_before(make_config, killed, monkeypatch):
    config = make_config()
    killed(config, 1)
    (before,) = checkpoints_in(config.run_dir)
    content = before.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="No space left.*Free disk space.*are intact"):
            train(config)
    assert checkpoints_in(config.run_dir) == [before]
    assert before.read_bytes() == content
    assert not list(before.parent.glob(".*"))


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "bad")])
def test_other_errors_of_files_stay_what_they_are(make_config, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("utils.training.run.compiled_model", fail)
    with pytest.raises(type(error)) as raised:
        train(make_config())
    assert raised.value is error


def test_a_folder_that_cannot_be_made(make_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="run_dir .*file/run cannot be used .*another run_dir"):
        train(make_config("file/run"))


def test_a_folder_in_use_is_refused(make_config):
    config = make_config()
    Path(config.run_dir).mkdir()
    with (
        FileLock(Path(config.run_dir, "lock")),
        pytest.raises(TrainingError, match="Another process is training in .*holds .*run/lock"),
    ):
        train(config)
    assert [p.name for p in Path(config.run_dir).iterdir()] == ["lock"]


def test_a_lock_that_cannot_be_opened_is_no_process(tmp_path):
    (tmp_path / "lock").mkdir()  # as another user's would be
    with pytest.raises(TrainingError, match="cannot be used .*Choose another run_dir"):
        wait_for_others(tmp_path, pause=0.01)


def test_waiting_for_nobody_makes_no_folder(tmp_path):
    wait_for_others(tmp_path / "missing" / "run", pause=60)
    wait_for_others(tmp_path, pause=60)
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, None], ids=str)
def drive(request, tmp_path, monkeypatch):
    """A run's folder on a drive without locks, or whose locks other machines do not see."""

    def flock(handle, flags):
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr("fcntl.flock", flock)
    else:
        parts = (("/", "ext4"), (str(tmp_path), "fuse.drive"), (str(tmp_path / "other"), "ext4"))
        mounts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in parts]
        monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    monkeypatch.setattr(run_folder, "LEASE_SECONDS", 0.5)
    return tmp_path / "My Drive" / "run"


def test_a_drive_without_locks_keeps_others_out_too(drive, capsys, monkeypatch):
    monkeypatch.setattr(run_folder, "LEASE_SECONDS", 3.0)  # it is renewed in time, however busy
    with run_folder.lock(drive):
        assert (drive / "lease").exists()
        assert capsys.readouterr().out == ""
        script = [sys.executable, "-c", SECOND.format(folder=str(drive))]
        second = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
        assert f"Another process is training in {drive}: it holds {drive}/" in second.stderr
    assert not (drive / "lease").exists()


def test_what_a_machine_that_is_gone_has_left_is_waited_for(drive, capsys):
    with run_folder.lock(drive):
        left = (drive / "lease").read_text()
    (drive / "lease").write_text(left.replace(f"host={socket.gethostname()}", "host=elsewhere"))
    wait_for_others(drive, pause=0.01)
    assert not (drive / "lease").exists()
    capsys.readouterr()
    (drive / "lease").write_text(left.replace(f"host={socket.gethostname()}", "host=elsewhere"))
    with run_folder.lock(drive):
        assert f"host={socket.gethostname()}" in (drive / "lease").read_text()
    assert "lease says that another process trains here, or has died" in capsys.readouterr().out


def test_a_lease_that_is_lost_is_said(drive, capsys):
    with run_folder.lock(drive):
        (drive / "lease").unlink()
        end, said = time.monotonic() + 60, ""
        while "no longer held by this process" not in said:
            assert time.monotonic() < end, said
            time.sleep(0.02)
            said += capsys.readouterr().out


def test_a_lease_that_was_half_written_is_named(drive):
    drive.mkdir(parents=True)
    (drive / "lease").touch()
    with pytest.raises(TrainingError) as error, run_folder.lock(drive):
        pass
    assert str(error.value).endswith(
        f"it holds {drive}/lease. Wait for it, stop it, or use another run_dir. "
        "If there is none, delete that file."
    )


def test_a_drive_of_this_machine_has_a_lock_alone(tmp_path):
    with run_folder.lock(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_more_epochs_are_another_run(make_config):
    config = make_config(epochs=1)
    train(config)
    weights = f"{config.run_dir}/model.keras"
    for holds in ("run.json is the result of another run", "run holds a run with other parameters"):
        with pytest.raises(TrainingError, match=f"{holds}.*epochs: 1 there, 2 now") as error:
            train(dataclasses.replace(config, epochs=2))
        assert f"use another run_dir and -p initial_weights {weights}" in str(error.value)
        config.result_file.unlink(missing_ok=True)
    train(make_config("more", epochs=1, initial_weights=weights))


def test_a_run_that_began_with_another_order_does_not_go_on(make_config, tmp_path):
    config = make_config(seed=3)
    run_folder.check_config(tmp_path, config, "a")
    save(tmp_path, 1)
    run_folder.check_config(tmp_path, config, "a")
    path = tmp_path / "config.json"
    older = json.loads(path.read_text()) | {"shuffle_window": 20_000}
    del older["input"]
    path.write_text(json.dumps(older))
    text = f"{tmp_path} holds a run of another version of this project, which reads the images in a"
    with pytest.raises(TrainingError, match=text):
        run_folder.check_config(tmp_path, config, "a")
    with pytest.raises(TrainingError, match="other parameters .seed: 3 there, 4 now"):
        run_folder.check_config(tmp_path, make_config(seed=4), "a")


def test_a_start_that_was_refused_leaves_its_folder_to_another(make_config, tmp_path):
    run_folder.check_config(tmp_path, make_config(seed=3), "a")
    run_folder.check_config(tmp_path, make_config(seed=4), "b")
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 4
    save(tmp_path, 1)
    with pytest.raises(TrainingError, match="other parameters .seed: 4 there, 3 now"):
        run_folder.check_config(tmp_path, make_config(seed=3), "b")


def test_a_run_of_other_records_or_of_another_preset_is_left_alone(make_config, copied):
    config = make_config(epochs=1)
    train(config)
    with pytest.raises(TrainingError, match="preset: 'small' there, 'simple' now"):
        train(dataclasses.replace(config, preset="simple"))
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "classes": ["a"]}))
    with pytest.raises(TrainingError, match="manifest_sha256: .* there, .* now"):
        train(dataclasses.replace(config, data_dir=str(copied)))
    assert read_result(f"{config.run_dir}/run.json")["status"] == "complete"


def test_a_complete_run_is_left_and_another_of_its_name_is_refused(make_config, tmp_path, capsys):
    shared = {"epochs": 1, "results_dir": str(tmp_path / "results")}
    first = make_config("a/run", **shared)
    result = train(first)
    before = first.result_file.read_bytes()
    with pytest.raises(TrainingError, match="another run, not .*b/run .*seed: 0 there, 1 now"):
        train(make_config("b/run", seed=1, **shared))
    shutil.rmtree(first.run_dir)
    capsys.readouterr()
    for config in (first, make_config("c/run", **shared)):
        assert train(config) == result
        assert "run is complete; nothing to do" in capsys.readouterr().out
    assert first.result_file.read_bytes() == before
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()
