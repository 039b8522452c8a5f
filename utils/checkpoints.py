"""The state of a run in one file, written so that it is there whole or not at all."""

import contextlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another model."""


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


def save_checkpoint(path, model, state):
    """Writes weights, optimizer variables and `state`.

    Args:
        path: the `.npz` file.
        model: a compiled `keras.Model` whose optimizer is built.
        state: what else the run needs to go on, as JSON.
    """
    arrays = {name: keras.ops.convert_to_numpy(v) for name, v in _variables(model).items()}
    with replacing(path) as file:
        np.savez(file, **arrays, **{STATE: np.array(json.dumps(state))})


def load_checkpoint(path, model):
    """Puts a checkpoint into a model of the same structure.

    Args:
        path: the `.npz` file.
        model: a compiled `keras.Model` whose optimizer is built.

    Returns:
        The `state` that was saved.

    Raises:
        CheckpointError: the file is damaged or of another model; the model is untouched then.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop(STATE)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Delete it to continue from the checkpoint before it."
        ) from error
    variables = _variables(model)
    wrong = sorted(set(arrays) ^ set(variables)) + sorted(
        name for name in set(arrays) & set(variables) if arrays[name].shape != variables[name].shape
    )
    if wrong:
        raise CheckpointError(f"{path} is of another model or optimizer: {', '.join(wrong[:5])} …")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return state


STATE = "state"


def _variables(model):
    """All variables of a run by a name that does not change between processes."""
    return {
        **{f"model/{v.path}": v for v in model.variables},
        **{f"optimizer/{i:04d}": v for i, v in enumerate(model.optimizer.variables)},
    }
