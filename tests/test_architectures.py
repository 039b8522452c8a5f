import keras
import pytest

from utils.analysis.architectures import authors_macs, size_table
from utils.analysis.published import ARCHITECTURES, COURSE_REPORT, PAPER_DOWN_SAMPLING
from utils.models.build import count_macs
from utils.models.presets import DOWN_SAMPLING, PRESETS


def test_sizes_beside_the_course_report():
    table = size_table(COURSE_REPORT.loc[["simple"]])
    assert table.loc["simple", "parameters"] == 654_200
    assert table.loc["simple", "deviation"] == pytest.approx(654_200 / 667_584 - 1)
    assert table.loc["simple", "macs"] == 14_244_384


def test_parameters_that_are_not_trained_count_on_demand():
    published = COURSE_REPORT.loc[["simple"]]
    assert size_table(published, count_all=["simple"])["parameters"].tolist() == [663_496]


def test_macs_as_the_authors_count():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 1, use_bias=True, name="convolution")(inputs)
    x = keras.layers.ReLU()(x)
    x = keras.layers.MaxPooling2D(2, name="stem")(x)
    x = keras.layers.Activation("relu")(x)
    model = keras.Model(inputs, keras.layers.MaxPooling2D(2, name="pool")(x))
    biases, relu, stem, pool = 8 * 8 * 2, 4 * 4 * 2, 4 * 4 * 4 * 2, 7 * 4 * 2 * 2 * 2
    assert authors_macs(model) == count_macs(model) + biases + relu + stem + pool


def test_published_sizes_are_of_known_presets():
    assert set(ARCHITECTURES.index) <= set(PRESETS)
    assert set(PAPER_DOWN_SAMPLING.index) == set(DOWN_SAMPLING)
    assert ARCHITECTURES["source"].str.len().min() > 5
