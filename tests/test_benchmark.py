import numpy as np
import pytest

from utils.experiments import benchmark_tasks
from utils.experiments.benchmark import best_of, measure, measured


@pytest.mark.tracing
def test_a_task_runs_in_a_process_of_its_own_or_in_this_one():
    options = {"size": 32, "dtype": "bfloat16"}
    for own_process in (True, False):
        row = measure("matrix_product", own_process=own_process, **options)
        assert row.pop("gflops") > 0
        assert row == {"task": "matrix_product", "backend": "tensorflow", **options}
    failed = measure("matrix_product", size=-1)
    assert "gflops" not in failed
    assert "-1" in failed["error"]
    with pytest.raises(RuntimeError, match="measurement of matrix_product failed: .*-1"):
        measured("matrix_product", size=-1)


def test_the_best_of_equal_settings_counts():
    slow, fast, other = (
        {"preset": preset, "xla": False, "images_per_second": speed}
        for preset, speed in (("simple", 100.0), ("simple", 120.0), ("medium", 50.0))
    )
    failed = {"preset": "complex", "xla": False, "error": "killed"}
    assert best_of([slow, other, fast, failed], ["preset", "xla"]) == [fast, other, failed]


def test_rates_by_a_clock_of_ours(monkeypatch):
    now, left = [0.0], [9.0, 2.0, 1.0, 4.0, 2.0]

    def work():
        now[0] += left.pop(0)

    monkeypatch.setattr(benchmark_tasks.time, "perf_counter", lambda: now[0])
    assert benchmark_tasks._rate(work, 10, 64) == 640  # by the fastest, after a first one


def test_a_matrix_product_by_a_clock_of_ours(monkeypatch):
    clock = iter(np.arange(12.0) ** 2)  # the first one takes a second
    monkeypatch.setattr(benchmark_tasks.time, "perf_counter", lambda: next(clock))
    assert benchmark_tasks.matrix_product(size=100)["gflops"] == pytest.approx(2e6 / 1e9)
