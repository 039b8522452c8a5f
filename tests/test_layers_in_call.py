import numpy as np
import pytest

from utils.experiments.layers_in_call.variants import LAYERS, MANNERS, Variant, run_id


def test_what_a_variant_makes_anew():
    assert Variant("batch_norm", "list").manner_of(("batch_norm", "score")) == "list"
    assert Variant("score", "local").manner_of(("batch_norm", "score")) == "local"
    assert Variant("transfer", "local").manner_of(("batch_norm", "score")) == "once"
    assert Variant("everything", "attribute").manner_of(("convolution", "stem")) == "attribute"
    assert Variant("none", "once").manner_of(("batch_norm", "score")) == "once"


def test_unknown_variants():
    with pytest.raises(ValueError, match="`which` must be one of none, batch_norm, .*'bn'"):
        Variant("bn", "local")
    with pytest.raises(ValueError, match="`manner` must be one of once, local, .*'global'"):
        Variant("score", "global")
    for which, manner in (("none", "local"), ("score", "once")):
        with pytest.raises(ValueError, match=f"once only there. .*{which}.*{manner}"):
            Variant(which, manner)


def test_run_ids():
    assert run_id("simple", "batch_norm", "list", 1) == "layers-in-call-batch-norm-list-seed1"
    name = run_id("resnet_report", "none", "once", 0)
    assert name == "layers-in-call-resnet-report-none-once-seed0"
    assert len({run_id("simple", which, manner, 0) for which in LAYERS for manner in MANNERS}) == (
        len(LAYERS) * len(MANNERS)
    )


@pytest.fixture(scope="module")
def train():
    """The training module, where Keras 2 is installed."""
    pytest.importorskip("tf_keras")
    from utils.experiments.layers_in_call import train

    return train


def batches(train, count=8):
    rng = np.random.default_rng(0)
    images, labels = rng.random((count, 64, 64, 3), "float32"), rng.integers(0, 200, count)
    return train.tf.data.Dataset.from_tensor_slices((images, labels)).batch(count).repeat()


def losses(train, which, manner, steps=2):
    train.tf_keras.utils.set_random_seed(0)
    train.tf.config.run_functions_eagerly(manner != "twin")
    model = train.build("simple", Variant(which, manner))
    options = {"steps_per_epoch": 1, "epochs": steps, "verbose": 0, "validation_steps": 1}
    history = model.fit(batches(train), validation_data=batches(train), **options).history
    train.tf.config.run_functions_eagerly(False)
    return model, history


def test_made_once_it_is_the_preset(train):
    model, history = losses(train, "none", "once")
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == 654_200
    assert history["loss"][1] < history["loss"][0]
    assert train.graph_error("simple", Variant("none", "once")) is None


def test_a_list_keeps_what_each_call_makes(train):
    model, _ = losses(train, "score", "list", steps=1)
    once, _ = losses(train, "none", "once", steps=1)
    # Four BatchNorms of four and three convolutions, one with a bias, for the second call; and
    # for the first, a Sequential calls its layers (two and two, one with a bias) to build itself.
    assert len(model.variables) == len(once.variables) + 20 + 11
    message = train.graph_error("simple", Variant("score", "list"))
    assert message.startswith("ValueError: tf.function only supports singleton tf.Variables")


def test_an_attribute_leaves_slots_behind(train):
    model, _ = losses(train, "score", "attribute")
    once, _ = losses(train, "none", "once")
    assert len(model.variables) == len(once.variables)
    # Of each of the 12 trainable variables, two slots more for the second step.
    assert len(model.optimizer.variables()) == len(once.optimizer.variables()) + 24


def test_the_twin_computes_the_same(train):
    _, real = losses(train, "batch_norm", "local")
    _, twin = losses(train, "batch_norm", "twin")
    np.testing.assert_allclose(twin["loss"], real["loss"], rtol=1e-4)
    np.testing.assert_allclose(twin["val_loss"], real["val_loss"], rtol=1e-4)
    # Kernels that are drawn in each call, and nothing to train.
    model, drawn = losses(train, "everything", "twin")
    assert not model.trainable_variables
    assert drawn["loss"][0] != drawn["loss"][1]
