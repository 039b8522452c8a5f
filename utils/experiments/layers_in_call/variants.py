"""Layers created inside `call`: which of a network's layers, and in which manner.

Needs neither TensorFlow nor Keras.
"""

import dataclasses

from utils.fields import check_choice

EVALUATED_TRAIN_BATCHES = 10  # of training images, evaluated as the hold-out is, after each epoch

# What is re-created in every call.
LAYERS = (
    "none",  # every layer is made once
    "batch_norm",  # every BatchNorm
    "shortcut",  # the shortcuts' BatchNorm and convolution, where the width changes
    "squeeze",  # the squeeze block's two convolutions
    "score",  # the score layers, but for the classifier
    "transfer",  # the transfer blocks
    "convolution",  # every convolution and the classifier
    "everything",  # every layer that has weights
)
MANNERS = (
    "once",  # in `__init__`, as it should be
    "local",  # a local variable in `call`: never tracked, so never trained
    "attribute",  # an attribute assigned in each call: tracked until the next call
    "list",  # appended to a list in each call, the newest used: tracked for good
    "twin",  # what these compute, without their variables and in a graph: three times as fast
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """Which layers are re-created in every call, and how.

    Raises:
        ValueError: if there is no such kind of layer or manner, or one without the other.
    """

    which: str  # one of `LAYERS`
    manner: str  # one of `MANNERS`

    def __post_init__(self) -> None:
        for field, valid in (("which", LAYERS), ("manner", MANNERS)):
            check_choice(field, getattr(self, field), valid)
        if self.manner != "twin" and (self.which == "none") != (self.manner == "once"):
            raise ValueError(
                "manner must be once or twin where nothing is re-created; once only there. "
                f"Received: which={self.which!r} and manner={self.manner!r}"
            )

    def manner_of(self, kinds: tuple[str, ...]) -> str:
        """How a layer is made that is of these kinds, one of `MANNERS`."""
        anew = self.which == "everything" or self.which in kinds
        return self.manner if anew else "once"


def run_id(preset: str, which: str, manner: str, seed: int) -> str:
    """Base name of a run's result."""
    network = "" if preset == "simple" else f"{preset.replace('_', '-')}-"
    return f"layers-in-call-{network}{which.replace('_', '-')}-{manner}-seed{seed}"
