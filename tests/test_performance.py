import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from utils.analysis.performance import (
    last_epoch_table,
    profile_table,
    side_by_side_table,
    speed_table,
)
from utils.experiments import benchmark
from utils.experiments.side_by_side import REFERENCE
from utils.figures import performance_charts, style

FISH = [[20, 40, 80], [2, 2], [2]]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def speeds():
    settings = [*benchmark.main_settings(["simple", FISH]), *benchmark.other_settings(["simple"])]
    measured = [{"images_per_second": 100.0 + 10 * i, "gflops": 5.0} for i in range(len(settings))]
    return [{**setting, **row} for setting, row in zip(settings, measured, strict=True)]


def test_main_settings_are_both_kinds_of_layers():
    settings = benchmark.main_settings(["simple", FISH])
    assert [(s["preset"], s["fast_layers"]) for s in settings] == [
        ("simple", False), ("simple", True), (FISH, False), (FISH, True),
    ]  # fmt: skip
    assert {(s["backend"], s["precision"], s["xla"]) for s in settings} == {
        ("tensorflow", "float32", False)
    }


@pytest.mark.parametrize(
    ("jax", "backends"), [(None, {"tensorflow"}), ("spec", {"tensorflow", "jax"})]
)
def test_other_settings_have_jax_where_it_is_installed(monkeypatch, jax, backends):
    monkeypatch.setattr(benchmark, "find_spec", {"jax": jax}.get)
    settings = benchmark.other_settings(["simple", "medium"])
    assert {s["backend"] for s in settings} == backends
    assert [s["preset"] for s in settings if s["backend"] == "tensorflow"] == ["simple"] * 4
    every = [*benchmark.main_settings(["simple", "medium"]), *settings]
    assert all(every.count(setting) == 1 for setting in every)


def test_speeds_are_compared_with_unchanged_keras_of_the_same_network(speeds):
    table = speed_table(speeds, peak_gflops=20.0)
    assert list(table["network"][:4]) == ["simple", "simple", "widths from 20", "widths from 20"]
    assert list(table["ratio"][:4]) == pytest.approx([1, 1.1, 1, 130 / 120])
    assert table["setting"][1] == "tensorflow, float32, fast layers"
    assert table["setting"][4] == "tensorflow, float32, XLA, Keras' layers"
    assert set(table["share_of_peak"]) == {0.25}
    assert table["error"].isna().all()


def test_a_setting_that_failed_keeps_its_error(speeds):
    del speeds[5]["images_per_second"], speeds[5]["gflops"]
    table = speed_table([*speeds[:5], {**speeds[5], "error": "no memory"}], peak_gflops=20.0)
    assert list(table["error"].dropna()) == ["no memory"]
    assert math.isnan(table["ratio"][5])


def test_errors_alone(speeds):
    failed = {name: speeds[0][name] for name in benchmark.main_settings(["simple"])[0]}
    table = speed_table([failed | {"error": "killed"}], peak_gflops=20.0)
    assert [*table["error"]] == ["killed"]
    assert table["ratio"].isna().all()


@pytest.fixture
def beside():
    def row(network, setting, *ratios):
        speeds = {"ratios": list(ratios), "images_per_cpu_second": [100 * r for r in ratios]}
        missing = {} if ratios else {"error": "no checkout"}
        return {"network": network, "setting": setting, "error": "", **speeds} | missing

    return side_by_side_table(
        [
            row("simple", "theirs, float32", 0.5, 0.8, 0.4),
            row("simple", "theirs, float32, compiled", 0.7, 0.4),
            row("simple", REFERENCE, 1.0, 1.2, 1.1),
            row(FISH, "theirs, float32"),
            row(FISH, REFERENCE, 1.0),
        ]
    )


def test_ours_are_compared_with_the_best_of_theirs(beside):
    assert list(beside["network"][2:4]) == ["simple", "widths from 20"]
    assert list(beside["ratio"][:3]) == pytest.approx([0.5, 0.55, 1.1])
    assert list(beside["lowest"][:3]) == [0.4, 0.4, 1.0]
    assert list(beside["highest"][:3]) == [0.8, 0.7, 1.2]
    assert list(beside["images_per_cpu_second"][:3]) == pytest.approx([80, 70, 120])
    assert list(beside["of_their_best"][:3]) == pytest.approx([0.5 / 0.55, 1, 2])
    assert beside["ratio"].isna().to_list() == [False, False, False, True, False]
    assert math.isnan(beside["of_their_best"][4])
    assert list(beside["error"]) == ["", "", "", "no checkout", ""]


def test_figure_beside_the_authors_code(beside):
    style.set_style()
    figure = performance_charts.plot_side_by_side(beside)
    assert [axes.get_title() for axes in figure.axes] == ["simple", "widths from 20"]
    drawn = [list(lines.lines[0].get_xdata()) for lines in figure.axes[0].containers]
    assert drawn == [pytest.approx([0.5, 0.55]), pytest.approx([1.1])]
    assert figure.axes[0].lines[-1].get_xdata()[0] == 1


def test_profile_has_the_largest_first_and_zero_for_what_is_missing():
    profiles = {
        "a": {"ms_by_operation": {"Mul": 1, "Conv2D": 5}},
        "b": {"ms_by_operation": {"Sum": 9}},
    }
    table = profile_table(profiles)
    assert list(table.index) == ["Sum", "Conv2D", "Mul"]
    assert table.loc["Sum"].to_dict() == {"a": 0, "b": 9}


def test_last_epoch_is_compared_with_the_second():
    history = {"seconds": [9.0, 2.0, 3.0], "peak_rss_mb": [1.0, 100.0, 110.0]}
    row = last_epoch_table({"run": history}).loc["run"]
    assert row["seconds, last / second"] == 1.5
    assert row["memory, last / second"] == pytest.approx(1.1)


def test_figures_show_what_the_tables_hold(speeds):
    style.set_style()
    table = speed_table(speeds, peak_gflops=20.0)
    axes = performance_charts.plot_speed(table, "simple").axes[0]
    shown = sorted((bar.get_width() for bar in axes.patches), reverse=True)
    assert shown == sorted(table[table["network"] == "simple"]["images_per_second"], reverse=True)
    assert axes.lines[-1].get_xdata()[0] == 100.0

    profile = pd.DataFrame({"a": [3.0, 1.0]}, index=pd.Index(["x", "y"], name="operation"))
    bars = performance_charts.plot_profile(profile).axes[0].patches
    assert [bar.get_width() for bar in bars][:2] == [3, 1]

    histories = {"ours": {"seconds": [4.0, 2.0], "rss_mb": [1024.0, 2048.0]}}
    for relative, seconds in ((False, [4, 2]), (True, [2, 1])):
        figure = performance_charts.plot_epoch_costs(histories, memory="rss_mb", relative=relative)
        left, right = figure.axes
        assert list(left.lines[0].get_ydata()) == seconds
    assert list(right.lines[0].get_ydata()) == [1, 2]
