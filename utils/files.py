"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

# What a drive that lacks a call says of it (network drives, FUSE); others mean a lost file.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES}

UNFINISHED = ".unfinished-"  # with a random end, a folder of what is being written
A_DAY = 24 * 3600.0  # seconds after which such a folder is of a process that was killed
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
MOUNTED = ("fuse", "nfs", "cifs", "smb", "9p", "davfs")  # beginnings of types of file systems


class DamagedFile(ValueError):
    """A file cannot be read, such as one whose copy was interrupted; names it and what helps.

    Args:
        path: of the file.
        reason: what the reader said.
        remedy: what helps where there is no whole copy, such as "delete it".
    """

    def __init__(self, path: str | os.PathLike, reason: object, remedy: str) -> None:
        super().__init__(
            f"{path} is damaged or half-written ({reason}). Copy it again from where it is whole, "
            f"or {remedy}."
        )


def file_sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | os.PathLike, remedy: str) -> Any:
    """Reads a JSON file; raises `DamagedFile` with `remedy` if that cannot be done."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise DamagedFile(path, error, remedy) from error


def load_model(path: str | os.PathLike, **options: Any) -> Any:
    """Loads a `.keras` file, as `keras.models.load_model` does, which says of half a file: missing.

    Args:
        path: of the file.
        **options: of `keras.models.load_model`.

    Returns:
        A `keras.Model`.

    Raises:
        DamagedFile: the file is there, but not whole.
        ValueError: what Keras says, of a missing file for example.
    """
    import keras  # here, since whatever writes a JSON imports this module

    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise DamagedFile(path, "it has no end", "train its network again")
    return keras.models.load_model(path, **options)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Opens a temporary file that takes the place of `path` when the block ends without an error.

    Args:
        path: file to write or replace; its folder is made.
        mode: "w" (UTF-8, with lines as they are) or "wb", as for `open`.

    Yields:
        The open file. An error in the block leaves an earlier `path` as it was.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    with (
        _replacement(Path(path)) as temporary,
        open(temporary, mode.replace("w", "x"), encoding=encoding, newline=newline) as file,
    ):
        yield file
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


def is_mounted(folder: Path) -> bool:
    """Whether a folder is on a drive that other machines may write to, such as Google Drive.

    Their locks are not seen here, nor ours there.
    """
    import psutil  # here, since whatever writes a JSON imports this module

    path = folder.resolve()  # a link may lead to a drive
    drives = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    kinds = (drives[place] for place in (path, *path.parents) if place in drives)
    return next(kinds, "").startswith(MOUNTED)


@contextlib.contextmanager
def locked(file: Path, timeout: float = -1) -> Iterator[Exception | None]:
    """Holds the lock of a file, which the system opens again if this process dies.

    Args:
        file: its folder must exist.
        timeout: seconds to wait for another process; -1: as long as it takes.

    Yields:
        None; or what the drive says if it has no locks, and then nothing is held.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be made.
    """
    lock = FileLock(file, timeout=timeout, fallback_to_soft=False)
    without = None
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        without = error
    try:
        yield without
    finally:
        lock.release()


def save_model(model: Any, path: Path) -> None:
    """Saves a model as a `.keras` file, whole or not at all.

    Args:
        model: a `keras.Model`.
        path: ends in ".keras"; its folder is made.
    """
    with _replacement(path) as temporary:
        model.save(temporary)


@contextlib.contextmanager
def unfinished(folder: Path, others_since: float = A_DAY) -> Iterator[Path]:
    """A hidden folder for what is not finished: nothing in it is taken for a file of its kind.

    Args:
        folder: in which it is made, and in which those of killed processes are removed.
        others_since: see `remove_unfinished`.

    Yields:
        Its path; it is deleted when the block ends.
    """
    remove_unfinished(folder, others_since)
    with tempfile.TemporaryDirectory(
        prefix=UNFINISHED, dir=folder, ignore_cleanup_errors=True
    ) as made:
        yield Path(made)


def remove_unfinished(folder: Path, since: float = 0) -> None:
    """Removes what killed processes have left of `unfinished`.

    Args:
        folder: in which it was made.
        since: seconds after which nobody works there any more; 0 where no other process can.
    """
    for left in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process is done with it
            if not since or time.time() - left.stat().st_mtime > since:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """A file of the same name in a hidden folder, which takes the place of `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)


def write_advice(number: int | None, otherwise: str) -> str:
    """What helps after a failed write.

    Args:
        number: the error's `errno`, if it has one.
        otherwise: what helps whatever the reason, such as "choose another run_dir".

    Returns:
        `otherwise`, after what helps against a full disk or missing permissions.
    """
    if number in DISK_FULL:
        return f"free disk space or {otherwise}"
    if number in READ_ONLY:
        return f"check the permissions or {otherwise}"
    return otherwise


def compact_model(source: str | os.PathLike) -> bytes:
    """A `.keras` file with its kernels in float16: about a third of the size.

    Keras loads it as any other, into float32 weights. Vectors (biases and all that BatchNorm has)
    stay as they are, since a running variance may be beyond float16.

    Args:
        source: the `.keras` file.

    Returns:
        The contents of the new one; the same for the same model.

    Raises:
        ValueError: a kernel is too large for float16.
    """
    import h5py  # here, since whatever writes a JSON imports this module

    weights = "model.weights.h5"
    copied, compact = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(source) as old:
        with (
            h5py.File(io.BytesIO(old.read(weights))) as full,
            h5py.File(copied, "w", libver="earliest") as half,  # later ones store the time
        ):
            full.visititems(lambda name, item: _copy_item(half, name, item))
        with zipfile.ZipFile(compact, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                # The same model gives the same bytes, whenever it is copied.
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                new.writestr(info, copied.getvalue() if name == weights else old.read(name))
    return compact.getvalue()


def _copy_item(target: Any, name: str, item: Any) -> None:
    import h5py
    import numpy as np

    if isinstance(item, h5py.Group):
        copy = target.require_group(name)
    else:
        array = item[()]
        if array.dtype == np.float32 and array.ndim > 1:
            if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise ValueError(f"{name} has values beyond float16; keep the file as it is.")
            array = array.astype(np.float16)
        copy = target.create_dataset(name, data=array)
    copy.attrs.update(item.attrs)
