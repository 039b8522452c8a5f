"""A run's folder: one run in it, one process at a time, and its checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import re
import shlex
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, SoftFileLease, Timeout

from utils.fields import first_of
from utils.files import is_mounted, locked, read_json, remove_unfinished, replacing

if TYPE_CHECKING:
    from utils.training.config import RunConfig

LOCK = "lock"
LEASE = "lease"  # a file that is touched again and again, where there are no locks
LEASE_SECONDS = 120.0  # after which a lease that nobody has touched is void
STATE = "state"  # name of the JSON among a checkpoint's arrays
KEPT = 2  # checkpoints
CHECKPOINT = re.compile(r"epoch-\d+-step-\d+\.npz")


@dataclasses.dataclass
class TrainState:
    """How far a run is; with the variables, all that a checkpoint holds."""

    history: dict[str, list[Any]]  # one number per epoch; None where none was measured
    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after them
    elapsed: float = 0.0  # seconds spent in that epoch
    # Where it was trained: from which epoch and step on, in which `utils.environment.describe`.
    legs: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def go_on(self, env: dict[str, Any]) -> None:
        """Begins a leg, unless the run goes on where it was: the same machine, commit, versions."""
        if not self.legs or self.legs[-1]["env"] != env:
            self.legs.append({"epoch": self.epoch, "step": self.step, "env": env})


class TrainingError(RuntimeError):
    """A run cannot start, continue or end; the message says why and what helps."""


class FolderInUse(TrainingError):
    """Another process trains in the folder."""


class CheckpointError(RuntimeError):
    """A checkpoint is of another model."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint cannot be read."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder; the system opens it again if this one dies.

    On a drive without locks, or one that other machines write to (Google Drive), it is a lease: a
    file that this process touches again and again. If it dies, the next one waits until the lease
    has not been touched for `LEASE_SECONDS`; on the same machine it sees that at once.

    Args:
        folder: made when missing.

    Raises:
        FolderInUse: another process is in it.
        TrainingError: it cannot be made or locked.
    """
    file = Path(folder, LOCK)
    with contextlib.ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            without = stack.enter_context(locked(file, timeout=0))
            if without or is_mounted(file.parent):
                file = file.with_name(LEASE)
                stack.enter_context(_leased(file))
        except Timeout:
            # A lease that was half-written when its process died is empty, and never void.
            empty = " If there is none, delete that file." if file.name == LEASE else ""
            raise FolderInUse(
                f"Another process is training in {folder}: it holds {file}. Wait for it, stop it, "
                f"or use another run_dir.{empty}"
            ) from None
        except OSError as error:
            raise TrainingError(
                f"run_dir {folder} cannot be used ({error}). Choose another run_dir."
            ) from error
        yield


def _leased(file: Path) -> AcquireReturnProxy:
    """Takes the lease of a folder."""

    def lost(_: Any) -> None:
        print(
            f"Warning: {file} is no longer held by this process, which its drive may have been "
            "cut off from. If another one trains in that folder, stop one of the two.",
            flush=True,
        )

    if file.exists():
        print(
            f"{file} says that another process trains here, or has died. Looking for up to "
            f"{LEASE_SECONDS:.0f} seconds whether it still does …",
            flush=True,
        )
    lease = SoftFileLease(file, lease_duration=LEASE_SECONDS, on_compromise=lost)
    return lease.acquire(timeout=1.25 * LEASE_SECONDS, poll_interval=LEASE_SECONDS / 60)


def wait_for_others(folder: Path | str, pause: float) -> None:
    """Waits until no other process is in a folder (see `lock`); none is in a missing one.

    Args:
        folder: which may be missing.
        pause: seconds between looks.

    Raises:
        TrainingError: it cannot be locked.
    """
    while Path(folder, LOCK).exists():
        with contextlib.suppress(FolderInUse), lock(Path(folder)):
            return
        time.sleep(pause)


def check_config(folder: Path, config: RunConfig, manifest_sha256: str) -> None:
    """Writes `config.json`, or checks that the folder is of this very run.

    One in which nothing has been trained yet, since a start was refused, is of no run.

    Args:
        folder: of the run.
        config: of the run.
        manifest_sha256: of its dataset.

    Raises:
        TrainingError: the folder is of another run, and names what differs; or of a version that
            read the images in another order.
        utils.files.DamagedFile: `config.json` cannot be read.
    """
    path, identity = Path(folder, "config.json"), config.identity()
    if not path.exists() or not _is_begun(folder):
        with replacing(path, "w") as file:
            json.dump({**identity, "manifest_sha256": manifest_sha256}, file, indent=1)
        return
    found = _read_config(path)
    differences = config.differences(found, manifest_sha256)
    if not differences and found.get("input", 1) == identity["input"]:
        return
    if not differences:
        raise TrainingError(
            f"{folder} holds a run of another version of this project, which reads the images in "
            "another order: here it would not go on as it began. Use another run_dir, delete that "
            "folder, or go on with that version."
        )
    remedy = more_epochs(folder, differences) or (
        "Use the same parameters, another run_dir, or delete that folder."
    )
    said = differences_in_words(differences)
    raise TrainingError(f"{folder} holds a run with other parameters ({said}). {remedy}")


def differences_in_words(differences: Mapping[str, tuple[object, object]]) -> str:
    """What `RunConfig.differences` returns, as in "seed: 0 there, 1 now"."""
    return "; ".join(
        f"{name}: {there!r} there, {here!r} now" for name, (there, here) in differences.items()
    )


def begun_precision(folder: str | Path) -> str | None:
    """The precision of the run that is in a folder; None if there is none yet."""
    path = Path(folder, "config.json")
    return _read_config(path)["precision"] if path.exists() and _is_begun(folder) else None


def _is_begun(folder: str | Path) -> bool:
    """Whether something has been trained there; otherwise a start was refused, or killed early."""
    return bool(checkpoints_in(folder)) or Path(folder, "model.keras").exists()


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "delete it, and the run goes on with the parameters that you give; give those it had"
    return read_json(path, remedy)


def more_epochs(folder: str | Path, differences: Mapping[str, object]) -> str:
    """How to train on from a finished run, if its number of epochs is all that differs; or ""."""
    weights = Path(folder, "model.keras")
    if not weights.exists() or differences.keys() != {"epochs"}:
        return ""
    return (
        "A finished run keeps its number of epochs. To train on from its weights, use another "
        f"run_dir and -p initial_weights {shlex.quote(str(weights))}"
    )


def checkpoint_path(folder: Path, epoch: int, step: int) -> Path:
    """File of the checkpoint after `epoch` epochs and `step` steps."""
    return Path(folder, "checkpoints", f"epoch-{epoch:04d}-step-{step:07d}.npz")


def checkpoints_in(folder: Path | str) -> list[Path]:
    """The checkpoints of a run's folder, newest first."""
    files = Path(folder, "checkpoints").glob("epoch-*.npz")
    whole_names = (f for f in files if CHECKPOINT.fullmatch(f.name))  # no drive's copy "… (1).npz"
    return sorted(whole_names, key=_position, reverse=True)


def save_checkpoint(folder: Path, variables: Mapping[str, Any], state: TrainState) -> None:
    """Writes all that a run needs to go on, then drops all checkpoints but the last two good ones.

    Args:
        folder: of the run.
        variables: Keras variables, by names that do not change between processes.
        state: how far the run is.
    """
    path = checkpoint_path(folder, state.epoch, state.step)
    import keras  # here, since a `RunConfig` is made without
    import numpy as np

    arrays: dict[str, Any] = {n: keras.ops.convert_to_numpy(v) for n, v in variables.items()}
    position = {"position": (state.epoch, state.step), "elapsed": state.elapsed}
    saved = {**position, "history": state.history, "legs": state.legs}
    arrays[STATE] = np.array(json.dumps(saved))
    with replacing(path) as file:
        np.savez(file, **arrays)
    good = [path]
    for other in checkpoints_in(folder):
        if other == path:
            continue
        if len(good) == KEPT:
            other.unlink()
        elif _is_good(other):
            good.append(other)


def newest_checkpoint(folder: Path) -> tuple[int, int] | None:
    """Finds the newest checkpoint that can be read.

    Args:
        folder: of the run. What a killed process has half written is removed from it; a damaged
            checkpoint gets another name.

    Returns:
        Its position (epochs done, steps done in the epoch after them), or None without any.
    """
    remove_unfinished(Path(folder, "checkpoints"))
    good = next(filter(_is_good, checkpoints_in(folder)), None)
    return _position(good) if good else None


def read_checkpoint(path: Path, variables: Mapping[str, Any]) -> tuple[dict[str, Any], TrainState]:
    """Reads a checkpoint and compares it with the variables that it is meant for.

    Args:
        path: the `.npz` file.
        variables: Keras variables by the names they were saved under.

    Returns:
        (arrays by the same names, the state that was saved).

    Raises:
        DamagedCheckpoint: the file cannot be read, or not all of it is as it was written.
        CheckpointError: it is of another model or optimizer.
    """
    arrays, saved = _load(path)
    wrong = sorted(set(arrays) ^ set(variables)) + sorted(
        name for name in set(arrays) & set(variables) if arrays[name].shape != variables[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"{path} is of another model or optimizer: {first_of(wrong, most=5)}. "
            "Use another run_dir, or delete that folder."
        )
    return arrays, _state(saved)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    with open(path, "rb") as file:  # an error here, of permissions perhaps, is no damage
        try:
            if damaged := zipfile.ZipFile(file).testzip():
                raise ValueError(f"wrong checksum of {damaged}")
            file.seek(0)
            with np.load(file) as loaded:
                arrays = dict(loaded)
            return arrays, json.loads(str(arrays.pop(STATE)))
        except Exception as error:  # whatever the damage makes of a zip file
            of_drive = getattr(error, "errno", None) not in (None, errno.EINVAL)
            if of_drive or isinstance(error, MemoryError):
                raise  # the file may be whole
            raise DamagedCheckpoint(f"{path} is damaged ({error}).") from error


def _state(saved: dict[str, Any]) -> TrainState:
    epoch, step = saved["position"]
    return TrainState(saved["history"], epoch, step, saved["elapsed"], saved["legs"])


def _position(path: Path) -> tuple[int, int]:
    _, epoch, _, step = path.stem.split("-")
    return int(epoch), int(step)


def _is_good(path: Path) -> bool:
    """Whether a checkpoint can be read; a damaged one gets another name and counts no longer."""
    try:
        _load(path)
    except DamagedCheckpoint as error:
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        print(f"{error} It is set aside as {aside.name}.", flush=True)
        return False
    return True
