import dataclasses

import keras
import numpy as np
import pytest
from processes import run_on_jax

from utils.training.optimizers import (
    SGD,
    Adam,
    Muon,
    WarmupLinearDecay,
    estimate_batch_norm,
    learning_rate,
    make_optimizer,
    orthogonalized,
)
from utils.training.recipes import OPTIMIZERS, RECIPES, family_of, get_recipe


def test_schedule_rises_then_falls_to_zero():
    schedule = WarmupLinearDecay(peak=0.5, steps=100, warmup=0.15)
    rates = [float(schedule(step)) for step in (0, 7, 14, 15, 57, 99, 100)]
    np.testing.assert_allclose(
        rates, [0.5 / 15, 0.5 * 8 / 15, 0.5, 0.5, 0.5 * 43 / 85, 0.5 / 85, 0], rtol=1e-5
    )


def test_a_linear_schedule_falls_without_warmup_and_a_plateau_s_rate_does_not():
    recipe = get_recipe("tuned", warmup=0.0)
    rate = learning_rate(recipe, steps=100, batch_size=256)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 50, 99)], [0.02, 0.0101, 0.0002],
                               rtol=2e-2)  # fmt: skip
    course = get_recipe("course")
    assert learning_rate(course, steps=100, batch_size=256) == course.learning_rate


@pytest.mark.parametrize(
    ("recipe", "changes", "peak"),
    [
        ("tuned-v1", {}, 2.0),
        ("tuned", {}, 0.04),
        ("tuned", {"optimizer": "adamw"}, 6e-3),
        ("tuned", {"optimizer": "sgd"}, 2.0),
    ],
)
def test_rate_is_scaled_with_the_batch_or_its_root(recipe, changes, peak):
    optimizer = make_optimizer(get_recipe(recipe, **changes), steps=100, batch_size=1024)
    assert optimizer.get_config()["learning_rate"]["config"]["peak"] == pytest.approx(peak)


def test_rate_of_the_course_report_is_not_scaled():
    course = make_optimizer(RECIPES["course"], steps=100, batch_size=1024)
    assert float(course.learning_rate) == pytest.approx(1e-3)


def test_the_paper_s_rate_falls_tenfold_at_30_60_and_90_percent():
    rate = learning_rate(RECIPES["paper"], steps=1000, batch_size=512)
    found = [float(rate(step)) for step in (0, 299, 300, 599, 600, 899, 900, 999)]
    np.testing.assert_allclose(found, [0.2, 0.2, 0.02, 0.02, 2e-3, 2e-3, 2e-4, 2e-4], rtol=1e-5)


def test_the_cosine_of_few_steps_falls_to_zero_too():
    recipe = get_recipe("tuned", schedule="cosine", warmup=0.9)
    for steps in (1, 4):
        assert float(learning_rate(recipe, steps=steps, batch_size=256)(steps)) == 0


def test_the_cosine_falls_to_zero_with_and_without_a_warmup():
    rate = learning_rate(RECIPES["paper-long"], steps=1000, batch_size=256)
    np.testing.assert_allclose([rate(0), rate(500), rate(1000)], [0.1, 0.05, 0.0], atol=1e-7)
    warm = get_recipe("paper-long", warmup=0.2)
    rate = learning_rate(warm, steps=1000, batch_size=256)
    np.testing.assert_allclose(
        [rate(0), rate(100), rate(200), rate(600), rate(1000)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7
    )


def test_the_paper_s_l2_is_on_all_weights_and_its_momentum_is_classic():
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    layer.kernel.assign([[2.0]])
    layer.bias.assign([2.0])
    optimizer = make_optimizer(RECIPES["paper"], steps=100, batch_size=256)
    for _ in range(2):
        gradients = [(keras.ops.ones_like(w), w) for w in (layer.kernel, layer.bias)]
        optimizer.apply_gradients(gradients)
    first = 0.1 * (1 + 1e-4 * 2)
    second = 0.9 * first + 0.1 * (1 + 1e-4 * (2 - first))
    np.testing.assert_allclose([layer.kernel[0, 0], layer.bias[0]], [2 - first - second] * 2)


def test_l2_joins_the_gradient_of_kernels_alone():
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    layer.kernel.assign([[2.0]])
    layer.bias.assign([2.0])
    optimizer = SGD(0.1, l2=0.5, momentum=0.9, nesterov=True)
    optimizer.apply_gradients([(keras.ops.ones_like(w), w) for w in (layer.kernel, layer.bias)])
    # Nesterov's first step moves by rate * gradient * (1 + momentum).
    np.testing.assert_allclose(layer.kernel, [[2 - 0.1 * (1 + 0.5 * 2) * 1.9]], rtol=1e-6)
    np.testing.assert_allclose(layer.bias, [2 - 0.1 * 1.9], rtol=1e-6)


def test_l2_of_adam_is_part_of_what_its_moments_see():
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 1))
    layer.kernel.assign([[2.0]])
    optimizer = Adam(0.1, l2=0.5)
    optimizer.apply_gradients([(keras.ops.zeros_like(layer.kernel), layer.kernel)])
    # Adam's first step is the rate times the sign of the gradient, which is l2 * w alone here.
    np.testing.assert_allclose(layer.kernel, [[1.9]], rtol=1e-5)


def test_weight_decay_of_adamw_is_for_kernels_alone():
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    layer.kernel.assign([[2.0]])
    layer.bias.assign([2.0])
    recipe = get_recipe("tuned", optimizer="adamw", learning_rate=0.1, warmup=0.0, l2=0.0)
    optimizer = make_optimizer(recipe, steps=10, batch_size=256)
    variables = (layer.kernel, layer.bias)
    optimizer.apply_gradients([(keras.ops.zeros_like(v), v) for v in variables])
    np.testing.assert_allclose(layer.kernel, [[2 - 0.1 * 0.05 * 2]], rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, [2.0])


@pytest.mark.parametrize(("name", "usual"), [("adamw", 0.05), ("muon", 0.01)])
def test_weight_decay_is_the_usual_or_the_recipe_s(name, usual):
    for given, expected in ((None, usual), (0.125, 0.125), (0.0, 0.0)):
        recipe = get_recipe("tuned-v1", optimizer=name, weight_decay=given)
        optimizer = make_optimizer(recipe, steps=10, batch_size=256)
        assert optimizer.get_config()["weight_decay"] == expected


@pytest.mark.parametrize("shape", [(3, 3, 2, 8), (3, 3, 8, 8), (1, 1, 8, 32)])
def test_muon_steps_equally_far_in_all_directions(shape):
    first, *gradients = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    layer = keras.layers.Conv2D(shape[-1], shape[0], use_bias=False)
    layer.build((None, 8, 8, shape[2]))
    layer.kernel.assign(first)
    optimizer = Muon(0.1, weight_decay=0.5, muon_momentum=0.8, momentum=0.9)
    momentum = 0
    for gradient in gradients:
        before = np.array(layer.kernel)
        optimizer.apply_gradients([(keras.ops.convert_to_tensor(gradient), layer.kernel)])
        step = (before * (1 - 0.1 * 0.5) - np.array(layer.kernel)) / 0.1
        momentum = 0.8 * momentum + gradient
        nesterov = (gradient + 0.8 * momentum).reshape(-1, shape[-1])
        left, _, right = np.linalg.svd(nesterov, full_matrices=False)
        values = left.T @ step.reshape(nesterov.shape) @ right.T
        values /= max(1, nesterov.shape[1] / nesterov.shape[0]) ** 0.5
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-3)
        assert 0.6 < np.diag(values).min() < np.diag(values).max() < 1.3


KERNELS_TOGETHER = """
import keras, numpy as np
from utils.training import optimizers

generator, after = np.random.default_rng(0), []
shapes = [(3, 3, 2, 8), (1, 1, 18, 8), (3, 3, 2, 8), (1, 1, 4, 8), (8,)]
values = [[generator.normal(size=s).astype("float32") for s in shapes] for _ in range(3)]
for together in (True, False):
    variables = [keras.Variable(value, name="kernel") for value in values[0]]
    for variable in variables:
        variable._path = "layer/kernel"
    optimizer = optimizers.Muon(0.02, weight_decay=0.1, l2=0.1, momentum=0.9)
    if not together:
        step = super(optimizers.SGD, optimizer)._backend_update_step
        optimizer._backend_update_step = step
    for gradients in values[1:]:
        optimizer.apply(list(map(keras.ops.convert_to_tensor, gradients)), variables)
    after.append(list(map(np.array, variables)))
for one, other in zip(*after, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
assert not np.allclose(after[0][0], values[0][0], atol=1e-3)
"""


def test_on_jax_muon_steps_kernels_of_a_shape_together_as_it_would_alone():
    pytest.importorskip("jax")
    run_on_jax(KERNELS_TOGETHER)


def test_muon_works_as_it_is_and_needs_a_momentum():
    layer = keras.layers.Dense(1)
    layer.build((None, 1))
    Muon(0.02).apply_gradients([(keras.ops.ones((1, 1)), layer.kernel)])
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\). Received: 0.0"):
        Muon(0.02, momentum=0.0)


def test_muon_steps_all_but_convolutions_as_sgd_does():
    generator, after = np.random.default_rng(0), []
    gradients = [generator.normal(size=shape).astype("float32") for shape in [(4, 3), (3,), (3,)]]
    for optimizer in (Muon(0.02, l2=0.1), SGD(0.5, l2=0.1, momentum=0.9, nesterov=True)):
        dense, norm = keras.layers.Dense(3), keras.layers.BatchNormalization()
        dense.build((None, 4))
        norm.build((None, 3))
        dense.kernel.assign(gradients[0])
        variables = [dense.kernel, dense.bias, norm.gamma]
        for _ in range(2):
            pairs = zip(map(keras.ops.convert_to_tensor, gradients), variables, strict=True)
            optimizer.apply_gradients(list(pairs))
        after.append([np.array(variable) for variable in variables])
    for ours, theirs in zip(*after, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_changes_to_a_recipe():
    changed = get_recipe("tuned", l2=0.0, augment=None, optimizer="adam")
    assert (changed.l2, changed.augment, changed.optimizer) == (0.0, True, "adam")
    assert RECIPES["tuned"].l2 == 5e-4


@pytest.mark.parametrize(
    ("recipe", "changes", "rate", "l2"),
    [
        ("tuned", {"optimizer": "adam"}, 3e-3, 0.0),
        ("tuned", {"optimizer": "adamw"}, 3e-3, 0.0),
        ("tuned", {"optimizer": "rmsprop"}, 1e-3, 0.0),
        ("tuned", {"optimizer": "sgd"}, 0.5, 5e-4),
        ("tuned", {"optimizer": "muon", "learning_rate": None}, 0.02, 5e-4),
        ("tuned-v1", {"optimizer": "muon"}, 0.02, 5e-4),
        ("tuned", {"optimizer": "adam", "learning_rate": 0.01}, 0.01, 0.0),
        ("tuned", {"optimizer": "adam", "l2": 1e-4}, 3e-3, 1e-4),
        ("course", {"optimizer": "adam"}, 1e-3, 0.0),
        ("course", {"optimizer": "sgd"}, 0.5, 5e-4),
    ],
)
def test_another_optimizer_brings_its_own_rate_and_decay(recipe, changes, rate, l2):
    found = get_recipe(recipe, **changes)
    assert (found.learning_rate, found.l2) == (rate, l2)
    assert found.augment == RECIPES[recipe].augment
    same = found.optimizer == RECIPES[recipe].optimizer
    assert found.weight_decay == (RECIPES[recipe].weight_decay if same else None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_has_its_usual_l2(name):
    optimizer = make_optimizer(get_recipe("tuned", optimizer=name), steps=10, batch_size=256)
    assert optimizer.l2 == {"sgd": 5e-4, "muon": 5e-4, "momentum": 1e-4}.get(name, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "muon", "weight_decay": -1.0}, "weight_decay must be at least 0"),
        (
            {"optimizer": "sgd", "weight_decay": 0.1},
            "weight_decay is for adamw and muon; sgd has l2. Received: .*=0.1",
        ),
        ({"l2": float("inf")}, "l2 must be at least 0. Received: inf"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0. Received: nan"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, steps. Received: 'step'"),
        ({"schedule": "steps"}, "schedule steps needs warmup=0. Received: warmup=0.15"),
        (
            {"schedule": "cosine", "warmup": 0.0, "plateau_patience": 1},
            "schedule cosine needs plateau_patience=0. Received: plateau_patience=1",
        ),
    ],
)
def test_bad_changes(change, message):
    with pytest.raises(ValueError, match=message):
        get_recipe("tuned", **change)


def test_phases_of_image_sizes_fit_any_number_of_epochs():
    recipe = get_recipe("tuned", image_sizes="32x14-48x6-64x2")
    assert recipe.sizes == [32, 48, 64]
    assert [recipe.phase(epoch, 22) for epoch in (0, 13, 14, 19, 20, 21)] == [
        *[(32, 14)] * 2, *[(48, 20)] * 2, *[(64, 22)] * 2,
    ]  # fmt: skip
    assert [recipe.phase(epoch, 5) for epoch in range(5)] == [(32, 3)] * 3 + [(48, 4), (64, 5)]
    assert recipe.phase(0, 1) == (64, 1)
    thirds = get_recipe("tuned", image_sizes="32x0.7-48x0.2-64x0.1")
    assert thirds.phase(29, 30) == (64, 30)
    short = get_recipe("tuned", image_sizes="32x0.7-48x0.1-64x0.2")  # 0.7 + 0.1 < 0.8 in binary
    assert [short.phase(epoch, 10) for epoch in (6, 7, 8)] == [(32, 7), (48, 8), (64, 10)]
    assert RECIPES["tuned"].phase(3, 8) == (None, 8)


@pytest.mark.parametrize(
    "sizes", ["32", "32:14 64:2", "32x0-64x1", "0x1", "32x1-", "x", "32x1x2", "32x1.2.3"]
)
def test_image_sizes_that_cannot_be_read(sizes):
    message = f'in "32x14-48x6-64x2". Received: {sizes!r}'
    with pytest.raises(ValueError, match=f"image_sizes must be .*{message}"):
        get_recipe("tuned", image_sizes=sizes)


def test_tuned_is_its_first_version_with_muon():
    tuned, first = RECIPES["tuned"], RECIPES["tuned-v1"]
    muon = {"optimizer": "muon", "learning_rate": 0.02, "weight_decay": 0.125, "version": 2}
    assert tuned == dataclasses.replace(first, **muon)
    # Kernels shrink as fast in both: the momentum of SGD is 0.9.
    assert first.learning_rate * first.l2 / (1 - 0.9) == pytest.approx(0.02 * 0.125)


def test_unknown_recipe():
    with pytest.raises(
        ValueError,
        match="recipe must be one of course, tuned, tuned-v1, paper, paper-long. .*'tunde'",
    ):
        get_recipe("tunde")


def test_batch_norm_statistics_are_the_means_of_those_of_batches():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(momentum=0.9, name="first")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.99, name="second")(x * 2 + 1)
    model = keras.Model(inputs, x)
    batches = np.random.default_rng(0).normal(5, 3, (3, 8, 4, 4, 3)).astype("float32")
    estimate_batch_norm(model, [(batch, None) for batch in batches], count=2)
    first, second = (model.get_layer(name) for name in ("first", "second"))
    means, variances = (f(batches[:2], axis=(1, 2, 3)).mean(axis=0) for f in (np.mean, np.var))
    np.testing.assert_allclose(first.moving_mean, means, rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, variances, rtol=1e-5)
    np.testing.assert_allclose(second.moving_mean, [1] * 3, rtol=1e-4)
    np.testing.assert_allclose(second.moving_variance, [4] * 3, rtol=1e-3)
    assert (first.momentum, second.momentum) == (0.9, 0.99)
    estimate_batch_norm(model, [(batches[0], None), (batches[1][:2] + 9, None)])
    np.testing.assert_allclose(first.moving_mean, batches[0].mean(axis=(0, 1, 2)), rtol=1e-5)


def test_the_name_of_a_recipe_without_its_version():
    names = ["tuned", "tuned-v1", "paper-vit", "a-v2-b-v10"]
    assert [family_of(name) for name in names] == ["tuned", "tuned", "paper-vit", "a-v2-b"]


def test_settings_of_the_tuned_optimizers():
    usual = {"momentum": 0.9, "nesterov": True}
    config = make_optimizer(RECIPES["tuned-v1"], steps=9, batch_size=256).get_config()
    assert {name: config[name] for name in usual} == usual
    usual |= {"muon_momentum": 0.95, "sgd_rate": 25.0, "weight_decay": 0.125}
    config = make_optimizer(RECIPES["tuned"], steps=9, batch_size=256).get_config()
    assert {name: config[name] for name in usual} == usual


def test_the_momentum_of_the_average_is_the_recipe_s():
    averaged = make_optimizer(get_recipe("tuned", ema=0.998), steps=9, batch_size=256)
    assert (averaged.use_ema, averaged.ema_momentum) == (True, 0.998)
    assert not make_optimizer(RECIPES["tuned"], steps=9, batch_size=256).use_ema


def test_five_steps_of_newton_and_schulz():
    values = np.array([1, 0.3, 0.01, 0.002])
    found = np.array(orthogonalized(np.diag(values).astype("float32")))
    expected = values / np.linalg.norm(values)
    for _ in range(5):
        expected = 3.4445 * expected - 4.775 * expected**3 + 2.0315 * expected**5
    np.testing.assert_allclose(found, np.diag(expected), atol=1e-4)
    assert 0.65 < expected.min() < expected.max() < 1.25


def test_muon_has_no_l2_on_convolutions():
    first = np.random.default_rng(0).normal(size=(2, 3, 3, 2, 8)).astype("float32")
    after = []
    for l2 in (0.0, 0.5):
        layer = keras.layers.Conv2D(8, 3, use_bias=False)
        layer.build((None, 8, 8, 2))
        layer.kernel.assign(first[0])
        gradient = keras.ops.convert_to_tensor(first[1])
        Muon(0.1, l2=l2).apply_gradients([(gradient, layer.kernel)])
        after.append(np.array(layer.kernel))
    np.testing.assert_array_equal(*after)


def test_adamw_does_not_decay_batch_normalization():
    norm = keras.layers.BatchNormalization()
    norm.build((None, 3))
    norm.beta.assign([2.0] * 3)
    recipe = get_recipe("tuned", optimizer="adamw", learning_rate=0.1, warmup=0.0, l2=0.0)
    optimizer = make_optimizer(recipe, steps=10, batch_size=256)
    optimizer.apply_gradients([(keras.ops.zeros_like(v), v) for v in (norm.gamma, norm.beta)])
    np.testing.assert_array_equal(norm.gamma, [1.0] * 3)
    np.testing.assert_array_equal(norm.beta, [2.0] * 3)


def test_batch_normalization_is_estimated_from_twenty_batches():
    inputs = keras.Input((1, 1, 1))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(inputs))
    estimate_batch_norm(model, [(np.full((2, 1, 1, 1), i, "float32"), None) for i in range(30)])
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, [9.5], rtol=1e-5)  # 0 ... 19
