"""A run's folder: one run in it, and one process at a time."""

import contextlib
import json
from pathlib import Path

from filelock import FileLock, Timeout

from utils.files import replacing


class TrainingError(RuntimeError):
    """A run cannot start, go on or end; the text says why and what helps."""


@contextlib.contextmanager
def used_alone(folder):
    """Keeps other processes out of a folder; the system opens it again if this one dies.

    Args:
        folder: path; made when missing.

    Raises:
        TrainingError: another process is in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise TrainingError(
            f"Another process is training in {folder}. Wait for it, stop it, or use "
            "another run_dir."
        ) from None


def in_use(folder):
    """Whether another process is in a folder (see `used_alone`)."""
    try:
        with used_alone(folder):
            return False
    except TrainingError:
        return True


def claim(folder, identity, usual):
    """Writes `config.json`, or checks that the folder is of this very run.

    Args:
        folder: path.
        identity: dict of all that decides the run's result.
        usual: their defaults, for fields that did not exist yet when the folder was made.

    Raises:
        TrainingError: the folder is of another run; names what differs.
    """
    path = Path(folder, "config.json")
    if not path.exists():
        with replacing(path, "w") as file:
            json.dump(identity, file, indent=1)
        return
    found = {**usual, **json.loads(path.read_text())}
    differing = [
        f"{name}: {found.get(name)!r} there, {identity.get(name)!r} now"
        for name in sorted({*found, *identity})
        if found.get(name) != identity.get(name)
    ]
    if differing:
        raise TrainingError(
            f"{folder} holds a run with other parameters ({'; '.join(differing)}). "
            "Use the same parameters, another run_dir, or delete that folder."
        )
