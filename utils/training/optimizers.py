"""Optimizers and schedules of the recipes, and BatchNorm statistics for averaged weights."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from utils.training.recipes import OPTIMIZERS, Recipe
from utils.training.tasks import TASKS


class _WithL2(keras.optimizers.Optimizer):
    """An optimizer with classic L2: `l2 * w` joins the gradient of each kernel.

    Keras' own `weight_decay` shrinks the weights beside the momentum, which at momentum 0.9 is
    about ten times weaker. A kernel regularizer would do the same as this but would also be part of
    the reported loss.

    Args:
        learning_rate: a number or a `LearningRateSchedule`.
        l2: factor of the kernels; biases and BatchNorm have none.
        l2_on_all: whether they have it as well.
        **kwargs: of the optimizer.
    """

    def __init__(
        self, learning_rate: Any, l2: float = 0.0, l2_on_all: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.l2, self.l2_on_all = l2, l2_on_all

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Adds the L2 term, then steps as Keras' optimizer does."""
        # TensorFlow hands over its own variable, which does not know its path.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if self.l2 and (self.l2_on_all or path.endswith("/kernel")):
            gradient = gradient + self.l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Config for serialization."""
        return {**super().get_config(), "l2": self.l2, "l2_on_all": self.l2_on_all}


class SGD(_WithL2, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with L2."""


class Adam(_WithL2, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with L2."""


class RMSprop(_WithL2, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` with L2."""


class AdamW(_WithL2, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, whose own weight decay is for kernels only; L2 can be added."""

    def __init__(self, learning_rate: Any, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])


class Muon(SGD):
    """Steps of equal size in all directions for the kernels of convolutions; SGD for the rest.

    Such a kernel is taken as a matrix (height * width * inputs, outputs), and the update of
    Nesterov's momentum is replaced by the nearest matrix whose singular values are all 1. Its size
    is then √(outputs / rows) where there are more outputs than rows: no output changes more in a
    wide layer than in a narrow one. The classifier, biases and batch normalization are stepped as
    by `SGD`. (`keras.optimizers.Muon` takes matrices alone; kernels would be stepped by AdamW.)

    Args:
        learning_rate: of the kernels; a number or a `LearningRateSchedule`.
        muon_momentum: of the kernels.
        weight_decay: of the kernels, times their learning rate at each step, beside the momentum.
        sgd_rate: the learning rate of the rest, as a multiple of the kernels'.
        momentum: of the rest.
        nesterov: whether the rest has Nesterov's.
        **kwargs: of `SGD`, for the rest: `l2` is added to the gradient of the classifier alone.

    Raises:
        ValueError: there is no momentum.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, and
    github.com/KellerJordan/Muon at commit 00ba60d, the source of scale, rate and momentum.
    """

    def __init__(
        self,
        learning_rate: Any,
        *,
        muon_momentum: float = 0.95,
        weight_decay: float = 0.01,
        sgd_rate: float = 25.0,
        momentum: float = 0.9,
        nesterov: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 < momentum < 1:  # without one, Keras keeps nothing to step from
            raise ValueError(f"momentum must be in (0, 1). Received: {momentum!r}")
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)
        self.muon_momentum, self.decay, self.sgd_rate = muon_momentum, weight_decay, sgd_rate

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Steps one variable."""
        if self._is_matrix(variable):
            direction = orthogonalized(self._update(gradient, variable))
            self._step(variable, direction, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate * self.sgd_rate)

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        """Steps all variables; on JAX, kernels of the same shape are orthogonalized together.

        On a GPU it takes longer to start the products of one kernel than to compute them.
        """
        if keras.backend.backend() != "jax":  # TensorFlow steps one by one, where a variable is
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        together: dict[tuple[int, ...], list] = defaultdict(list)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if self._is_matrix(variable):
                update = self._update(gradient, variable)
                together[update.shape].append((variable, update))
            else:
                self.update_step(gradient, variable, learning_rate)
        for same in together.values():
            variables, updates = zip(*same, strict=True)
            directions = orthogonalized(keras.ops.stack(updates))
            for variable, direction in zip(variables, directions, strict=True):
                self._step(variable, direction, learning_rate)

    def _is_matrix(self, variable: Any) -> bool:
        """Whether a variable is the kernel of a convolution, which has height and width."""
        path = self._trainable_variables[self._get_variable_index(variable)].path
        return path.endswith("/kernel") and len(variable.shape) == 4

    def _update(self, gradient: Any, variable: Any) -> Any:
        """Nesterov's momentum of a kernel as a matrix, after this gradient."""
        gradient = keras.ops.cast(gradient, variable.dtype)
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, momentum * self.muon_momentum + gradient)
        update = gradient + momentum * self.muon_momentum
        return keras.ops.reshape(update, (math.prod(variable.shape[:-1]), variable.shape[-1]))

    def _step(self, variable: Any, direction: Any, learning_rate: Any) -> None:
        """Shrinks a kernel and steps it along the direction of its matrix."""
        ops, (rows, outputs) = keras.ops, direction.shape
        rate = ops.cast(learning_rate, variable.dtype)
        step = direction * max(1.0, outputs / rows) ** 0.5
        kernel = ops.convert_to_tensor(variable) * (1 - rate * self.decay)
        self.assign(variable, kernel - rate * ops.reshape(step, variable.shape))

    def get_config(self) -> dict[str, Any]:
        """Config for serialization."""
        own = {"muon_momentum": self.muon_momentum, "sgd_rate": self.sgd_rate}
        return {**super().get_config(), **own, "weight_decay": self.decay}


def orthogonalized(matrices: Any) -> Any:
    """Brings all singular values of matrices near 1 and leaves their singular vectors as they are.

    Five steps of Newton and Schulz's iteration, with coefficients that raise small values fastest
    and leave all of them between about 0.7 and 1.2.

    Args:
        matrices: (..., rows, columns), float32.

    Returns:
        Matrices of the same shape.

    Source: Jordan et al. (2024), "Newton-Schulz iteration".
    """
    ops = keras.ops
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if is_wide else ops.swapaxes(matrices, -1, -2)
    x = x / (ops.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        gram = ops.matmul(x, ops.swapaxes(x, -1, -2))
        x = 3.4445 * x + ops.matmul(2.0315 * ops.matmul(gram, gram) - 4.7750 * gram, x)
    return x if is_wide else ops.swapaxes(x, -1, -2)


CLASSES = {
    "sgd": SGD,
    "momentum": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "muon": Muon,
}


class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly over the first steps and falls linearly to zero at the last.

    Args:
        peak: highest learning rate.
        steps: optimizer steps of the whole run.
        warmup: fraction of the steps in which the rate rises.
    """

    def __init__(self, peak: float, steps: int, warmup: float) -> None:
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step: Any) -> Any:
        """Learning rate of optimizer step `step`, counted from 0."""
        rising = max(1, round(self.warmup * self.steps))
        step = keras.ops.cast(step, "float32")
        rise = (step + 1) / rising
        fall = (self.steps - step) / max(1, self.steps - rising)
        return self.peak * keras.ops.clip(keras.ops.minimum(rise, fall), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Config for serialization."""
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def learning_rate(recipe: Recipe, *, steps: int, batch_size: int) -> Any:
    """The learning rate of a recipe: a schedule of Keras or, to be lowered at a plateau, a number.

    Args:
        recipe: how it is trained.
        steps: optimizer steps of the whole run.
        batch_size: images per step.
    """
    rate = recipe.rate(batch_size)
    schedules = keras.optimizers.schedules
    if recipe.schedule == "steps":
        ends = [round(part * steps) - 1 for part in (0.3, 0.6, 0.9)]  # the last steps before a fall
        return schedules.PiecewiseConstantDecay(ends, [rate * 0.1**i for i in range(4)])
    if recipe.schedule == "cosine":
        rising = min(round(recipe.warmup * steps), steps - 1)
        if not rising:
            return schedules.CosineDecay(rate, steps)
        return schedules.CosineDecay(0.0, steps - rising, warmup_target=rate, warmup_steps=rising)
    if recipe.plateau_patience:
        return rate
    return WarmupLinearDecay(rate, steps, recipe.warmup)


def make_optimizer(recipe: Recipe, *, steps: int, batch_size: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its schedule.

    Args:
        recipe: how it is trained.
        steps: optimizer steps of the whole run.
        batch_size: images per step.

    Returns:
        The optimizer, not built.
    """
    rate = learning_rate(recipe, steps=steps, batch_size=batch_size)
    average: dict[str, Any] = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    settings = dict(OPTIMIZERS[recipe.optimizer].settings)
    if recipe.weight_decay is not None:
        settings["weight_decay"] = recipe.weight_decay
    return CLASSES[recipe.optimizer](rate, l2=recipe.l2, **settings, **average)


def estimate_batch_norm(model: keras.Model, batches: Iterable[Any], count: int = 20) -> None:
    """Estimates BatchNorm's statistics for averaged weights, with which no training step was done.

    Args:
        model: whose running means and variances become the means of those of the batches.
        batches: of which each begins with images; a smaller last one is left out.
        count: how many of them are used, the first.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
    UAI 2018, section 3.2.
    """
    kind = keras.layers.BatchNormalization
    norms = [layer for layer in model.layers if isinstance(layer, kind)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0  # the running statistics are those of the last batch
    found, size = [], 0
    for images, *_ in itertools.islice(batches, count):
        if len(images) < size:
            break  # the last ones, few, would count as much as a full batch
        size = len(images)
        model(images, training=True)
        found.append([x for layer in norms for x in map(np.array, layer.non_trainable_variables)])
    means = iter([np.mean(values, axis=0) for values in zip(*found, strict=True)])
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        for variable in layer.non_trainable_variables:
            variable.assign(next(means))


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    *,
    steps: int,
    batch_size: int,
    task: str = "classification",
    num_classes: int | None = None,
    jit_compile: bool = False,
    run_eagerly: bool = False,
) -> list[keras.Metric]:
    """Compiles a model for training with a recipe.

    Args:
        model: a `keras.Model` from images to what the task's head gives.
        recipe: how it is trained.
        steps: optimizer steps of the whole run.
        batch_size: images per step.
        task: a name in `utils.training.tasks.TASKS`.
        num_classes: of the dataset, for segmentation.
        jit_compile: whether to compile with XLA.
        run_eagerly: whether to run operation by operation, without a graph.

    Returns:
        The task's metrics; blank images of weight 0 do not count.
    """
    metrics = TASKS[task].metrics(num_classes)
    model.compile(
        optimizer=make_optimizer(recipe, steps=steps, batch_size=batch_size),
        loss=TASKS[task].loss(recipe.label_smoothing),
        weighted_metrics=metrics,
        jit_compile=jit_compile and not run_eagerly,
        run_eagerly=run_eagerly,
    )
    model.optimizer.build(model.trainable_variables)
    return metrics
