"""Files that are there whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path


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
