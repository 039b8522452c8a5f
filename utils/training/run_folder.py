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


def claim(folder, config, manifest_sha256):
    """Writes `config.json`, or checks that the folder is of this very run.

    Args:
        folder: path.
        config: the `RunConfig`.
        manifest_sha256: of its dataset.

    Raises:
        TrainingError: the folder is of another run; names what differs.
    """
    path = Path(folder, "config.json")
    if not path.exists():
        with replacing(path, "w") as file:
            json.dump({**config.identity(), "manifest_sha256": manifest_sha256}, file, indent=1)
        return
    if differences := config.differences(json.loads(path.read_text()), manifest_sha256):
        raise TrainingError(
            f"{folder} holds a run with other parameters ({'; '.join(differences)}). "
            "Use the same parameters, another run_dir, or delete that folder."
        )
