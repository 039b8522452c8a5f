"""Files that are there whole or not at all."""

import contextlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np


@contextlib.contextmanager
def replacing(path, mode="wb"):
    """Opens a temporary file that takes the place of `path` when the block ends without an error.

    Args:
        path: file to write or replace; its folder is made.
        mode: as for `open`.

    Yields:
        The open file. An error in the block leaves an earlier `path` as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def save_model(model, path):
    """Saves a model as a `.keras` file, whole or not at all.

    Args:
        model: a `keras.Model`.
        path: `pathlib.Path` that ends in ".keras"; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    model.save(temporary)
    temporary.replace(path)


def compact_model(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies a `.keras` file with its kernels in float16: about a third of the size.

    Keras loads it as any other, into float32 weights. Vectors (biases and all that BatchNorm has)
    stay as they are, since a running variance may be beyond float16.

    Args:
        source: The `.keras` file.
        target: The new one, written whole or not at all.

    Raises:
        ValueError: A kernel is too large for float16.
    """
    weights = "model.weights.h5"
    with zipfile.ZipFile(source) as old, replacing(target) as file:
        copied = io.BytesIO()
        with (
            h5py.File(io.BytesIO(old.read(weights))) as full,
            h5py.File(copied, "w", libver="latest") as half,
        ):
            full.visititems(lambda name, item: _copy_item(half, name, item))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                # The same model gives the same bytes, whenever it is copied.
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                new.writestr(info, copied.getvalue() if name == weights else old.read(name))


def _copy_item(target: h5py.File, name: str, item: h5py.Group | h5py.Dataset) -> None:
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
