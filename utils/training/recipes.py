"""How a network is trained: the report's recipe and ours, as data, and the optimizers they need."""

import dataclasses

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the network or the data.

    Raises:
        ValueError: a value that is not valid, with the valid ones.
    """

    optimizer: str  # in `OPTIMIZERS`
    learning_rate: float  # its peak, at a batch of 256 images
    scale_learning_rate: bool = False  # in proportion to the batch size
    warmup: float = 0.0  # share of all steps with a linear rise; then a linear fall to zero
    plateau_patience: int = 0  # epochs without a better loss before the rate falls tenfold; 0: off
    l2: float = 0.0  # times the kernels, added to their gradients
    augment: bool = False  # random crops and flips
    standardize: bool = False  # per-channel mean and deviation of train; otherwise / 255
    epochs: int = 30  # where a run names none
    checkpoint_every: int = 1  # epochs, where a run names none

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}. Received: {self.optimizer!r}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0. Received: {self.learning_rate!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1). Received: {self.warmup!r}")
        if not (self.l2 >= 0 and self.plateau_patience >= 0):
            raise ValueError(
                "l2 and plateau_patience must not be below 0. "
                f"Received: {self.l2!r} and {self.plateau_patience!r}"
            )


RECIPES = {
    # papermill notebooks/03_train.ipynb report/executed/simple-report.ipynb -p recipe report
    # The earlier report's training, as far as it is described.
    "report": Recipe(optimizer="adam", learning_rate=1e-3, plateau_patience=3, checkpoint_every=5),
    # papermill notebooks/03_train.ipynb report/executed/simple-tuned.ipynb -p recipe tuned
    "tuned": Recipe(
        optimizer="sgd",
        learning_rate=0.5,
        scale_learning_rate=True,
        warmup=0.15,
        l2=5e-4,
        augment=True,
        standardize=True,
        epochs=8,  # a quarter of an hour on two CPU cores with `simple`
    ),
}


def get_recipe(name, **changes):
    """The recipe of that name, with some fields changed.

    Args:
        name: a key of `RECIPES`.
        **changes: fields of `Recipe`; those that are None stay as they are.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: unknown name, with the valid ones, or a value that is not valid.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}. Received: recipe={name!r}")
    changes = {field: value for field, value in changes.items() if value is not None}
    return dataclasses.replace(RECIPES[name], **changes)
