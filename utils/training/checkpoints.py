"""The state of a run in one file, written so that it is there whole or not at all."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from utils.files import replacing


class CheckpointError(RuntimeError):
    """A checkpoint is of another model."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint cannot be read."""


def save_checkpoint(folder, epoch, step, variables, state, keep=2):
    """Writes all that a run needs to go on, then drops the oldest checkpoints.

    Args:
        folder: of the run's checkpoints.
        epoch: epochs done.
        step: steps done in the epoch after them.
        variables: dict of Keras variables, by names that do not change between processes.
        state: what else to keep, as JSON.
        keep: how many checkpoints to leave.
    """
    arrays = {name: keras.ops.convert_to_numpy(v) for name, v in variables.items()}
    with replacing(checkpoint_path(folder, epoch, step)) as file:
        np.savez(file, **arrays, **{STATE: np.array(json.dumps(state))})
    for old in checkpoints_in(folder)[keep:]:
        old.unlink()


def checkpoint_path(folder, epoch, step):
    """File of the checkpoint after `epoch` epochs and `step` steps."""
    return Path(folder) / f"epoch-{epoch:04d}-step-{step:07d}.npz"


def checkpoints_in(folder):
    """The checkpoints of a folder, newest first."""
    return sorted(Path(folder).glob("epoch-*.npz"), reverse=True)


def read_checkpoint(path, variables):
    """Reads a checkpoint and compares it with the variables that it is meant for.

    Args:
        path: the `.npz` file.
        variables: dict of Keras variables by the names they were saved under.

    Returns:
        (arrays by the same names, the `state` that was saved).

    Raises:
        DamagedCheckpoint: the file cannot be read, or not all of it is as it was written.
        CheckpointError: it is of another model or optimizer.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(str(arrays.pop(STATE)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error}).") from error
    wrong = sorted(set(arrays) ^ set(variables)) + sorted(
        name for name in set(arrays) & set(variables) if arrays[name].shape != variables[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"{path} is of another model or optimizer: {', '.join(wrong[:5])} … "
            "Use another run_dir, or delete that folder."
        )
    return arrays, state


STATE = "state"
