import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.analysis.published import COURSE_REPORT
from utils.experiments.layers_in_call.symptoms import LIMITS, beside, symptoms, verdicts
from utils.experiments.layers_in_call.variants import LAYERS, MANNERS, Variant, run_id
from utils.figures.layers_in_call import COLUMNS, plot_symptoms
from utils.training.results import read_result, result_path, write_result


def test_what_a_variant_makes_anew():
    assert Variant("batch_norm", "list").manner_of(("batch_norm", "score")) == "list"
    assert Variant("score", "local").manner_of(("batch_norm", "score")) == "local"
    assert Variant("transfer", "local").manner_of(("batch_norm", "score")) == "once"
    assert Variant("everything", "attribute").manner_of(("convolution", "stem")) == "attribute"
    assert Variant("none", "once").manner_of(("batch_norm", "score")) == "once"


def test_unknown_variants():
    with pytest.raises(ValueError, match="which must be one of none, batch_norm, .*'bn'"):
        Variant("bn", "local")
    with pytest.raises(ValueError, match="manner must be one of once, local, .*'global'"):
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


def write(folder, which, manner, seed=0, network="simple", error=None, **history):
    name = run_id(network, which, manner, seed)
    result = {
        "schema": 1, "run_id": name, "kind": "ablation", "status": "complete",
        "graph_error": error, "history": history, "config": {"steps": 5},
    }  # fmt: skip
    write_result(result_path(folder, name), result)


@pytest.fixture
def table(tmp_path):
    """Of a BatchNorm that shows every symptom, and score layers that nobody ran eagerly."""
    for seed, top1 in enumerate(([0.1, 0.2, 0.3], [0.1, 0.2, 0.1])):
        accuracies = {"val_top1": [value / 2 for value in top1], "evaluated_train_top1": top1}
        write(tmp_path, "none", "twin", seed, top1=top1, **accuracies)
    accuracies = {"top1": [0.05, 0.1], "val_top1": [0.01, 0.02], "evaluated_train_top1": [0, 0.05]}
    write(tmp_path, "batch_norm", "twin", **accuracies)
    write(tmp_path, "score", "twin", **{**accuracies, "val_top1": [0.1, 0.045]})
    error = "ValueError: tf.function only supports singleton tf.Variables created on the first call"
    numbers = {"rss_mb": [900, 1000, 1011], "model_variables": [305, 305, 345]}
    numbers |= {"optimizer_variables": [10, 10, 30], "cpu_seconds": [9, 2, 3]}
    write(tmp_path, "batch_norm", "list", error=error + ". Make sure", **numbers)
    for network in ("simple", "resnet_report"):
        sound = {name: [values[1]] * 3 for name, values in numbers.items()}
        sound["rss_mb"] = [900, 1000, 1001 if network == "simple" else 1002]
        write(tmp_path, "none", "once", network=network, **sound)
    return symptoms(tmp_path)


def test_symptoms(table):
    names = [("none", "once"), ("batch_norm", "list"), ("score", ""), ("none", "once")]
    assert list(zip(table["which"], table["manner"], strict=True)) == names
    # Both seeds in their last epoch; the others after as many epochs, over the seed they have.
    assert list(table["epochs"][:3]) == [3, 2, 2]
    assert list(table["seeds"][:3]) == [2, 1, 1]
    np.testing.assert_allclose(table["train_top1"], [0.2, 0.1, 0.1, np.nan])
    np.testing.assert_allclose(table["times_train"], [1, 0.5, 0.5, np.nan])
    # The network without the fault has half of any train accuracy on the hold-out.
    np.testing.assert_allclose(table["val_top1"], [0.1, 0.02, 0.045, np.nan])
    np.testing.assert_allclose(table["times_val"], [1, 0.4, 0.9, np.nan])
    # One epoch after the second: 5 steps, 5 of the hold-out, 10 batches of training images.
    np.testing.assert_allclose(table["memory"], [1 / 20, 11 / 20, np.nan, 2 / 20])
    np.testing.assert_allclose(table["times_memory"], [1, 11, np.nan, 2])
    np.testing.assert_allclose(table["variables"], [0, 60 / 20, np.nan, 0])
    np.testing.assert_allclose(table["seconds"], [1, 1.5, np.nan, 1])
    np.testing.assert_allclose(table["times_seconds"], [1, 1.5, np.nan, 1])
    none, batch_norm, score, resnet = (verdicts(row) for _, row in table.iterrows())
    assert batch_norm == dict.fromkeys(COLUMNS, "shown")
    assert none == dict.fromkeys(COLUMNS, "not shown")
    unknown = {"graph_error": None, "memory": None, "seconds": None}
    assert score == {**unknown, "train": "shown", "val": "not shown"}
    assert resnet == {**dict.fromkeys(unknown, "not shown"), "train": None, "val": None}
    guesses = {"train_top1": 0.011, "val_top1": 0.009}  # of 200 classes: chance is 0.005
    assert verdicts(pd.Series({**table.iloc[1], **guesses})) == {**batch_norm, "val": "chance"}


@pytest.fixture
def course():
    """The course report's network beside ours by its recipe, after a third of its epochs."""
    sound = read_result("report/results/simple-course-30ep-seed0.json")["history"]
    row = COURSE_REPORT.loc["simple"]
    return pd.Series({**row, **beside(row["train_top1"], row["val_top1"], sound)})


def test_val_is_set_beside_the_same_train_accuracy():
    sound = {"top1": [0.1, 0.3, 0.5], "val_top1": [0.1, 0.2, 0.2]}
    found = beside(0.2, 0.05, sound)
    np.testing.assert_allclose([found["times_train"], found["times_val"]], [0.4, 0.05 / 0.15])


def test_the_course_report_shows_the_symptoms_of_accuracy(course):
    assert course["times_train"] < LIMITS["train"] < 1
    assert course["times_val"] < LIMITS["val"] < 1


def test_symptoms_need_the_runs_without_the_fault(tmp_path):
    message = "layers-in-call-none-twin-seed0.json; run python -m .*train --manner twin first"
    with pytest.raises(FileNotFoundError, match=message):
        symptoms(tmp_path)
    accuracies = dict.fromkeys(("top1", "val_top1", "evaluated_train_top1"), [0.1])
    write(tmp_path, "none", "twin", **accuracies)
    message = "layers-in-call-none-once-seed0.json; run .*train --manner once --steps 15 first"
    with pytest.raises(FileNotFoundError, match=message):
        symptoms(tmp_path)


def test_the_figure_says_what_the_table_says(table, course):
    figure = plot_symptoms(table, course)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    rows = np.reshape(texts, (-1, len(COLUMNS) + 1)).tolist()
    assert rows[0] == ["yes", "yes", "yes", "23.6% (36%)", "5.3% (25%)", "30"]
    assert rows[2] == ["yes", "0.6", "1.50", "10.0% (50%)", "2.0% (40%)", "2 × 1"]
    assert rows[3] == ["–", "–", "–", "10.0% (50%)", "4.5% (90%)", "2 × 1"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        *("course report, simple", "nothing (fault-free)", "BatchNorm, kept in a list"),
        "score layers",
        "ResNet of keras.applications",
    ]
    plt.close(figure)


def test_the_committed_results():
    rows = symptoms("report/results").set_index(["network", "which", "manner"])
    tracked = rows.dropna(subset="variables").drop("local", level="manner", errors="ignore")
    assert (tracked["graph_error"] == tracked["variables"].gt(0)).all()
    assert rows.loc[("simple", "none", "once"), "variables"] == 0
    assert rows.loc[("resnet_report", "none", "once"), "variables"] == 0
    assert rows.loc[("simple", "batch_norm", "list"), "variables"] > 0


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
    model = train.build_variant("simple", Variant(which, manner))
    options = {"steps_per_epoch": 1, "epochs": steps, "verbose": 0, "validation_steps": 1}
    try:
        history = model.fit(batches(train), validation_data=batches(train), **options).history
    finally:
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


def test_the_twin_of_transfer_blocks_computes_the_same(train, monkeypatch):
    """With the same random numbers whenever kernels are drawn."""

    def draw(shape, stddev):
        return stddev * train.tf.random.stateless_normal(shape, (0, 1))

    def initialize(initializer, shape, dtype=None, **kwargs):
        return draw(shape, initializer.stddev)

    monkeypatch.setattr(train.tf.random, "normal", draw)
    monkeypatch.setattr(train.tf_keras.initializers.RandomNormal, "__call__", initialize)
    _, once = losses(train, "none", "twin", steps=3)
    _, twin = losses(train, "transfer", "twin", steps=3)
    for manner in ("list", "attribute"):
        _, real = losses(train, "transfer", manner, steps=3)
        np.testing.assert_allclose(twin["loss"], real["loss"], rtol=1e-4)
        np.testing.assert_allclose(twin["val_loss"], real["val_loss"], rtol=1e-4)
    # The same start, and another way from there, as one trains these blocks.
    np.testing.assert_allclose(twin["loss"][0], once["loss"][0], rtol=1e-4)
    assert abs(twin["loss"][2] / once["loss"][2] - 1) > 1e-3


def test_the_twin_draws_kernels_in_each_call(train):
    # Nothing is left to train.
    model, drawn = losses(train, "everything", "twin")
    assert not model.trainable_variables
    assert drawn["loss"][0] != drawn["loss"][1]
