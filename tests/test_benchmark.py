import pytest

from utils.experiments.benchmark import best_of, measure


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


def test_the_best_of_equal_settings_counts():
    slow, fast, other = (
        {"preset": preset, "xla": False, "images_per_second": speed}
        for preset, speed in (("simple", 100.0), ("simple", 120.0), ("medium", 50.0))
    )
    failed = {"preset": "complex", "xla": False, "error": "killed"}
    assert best_of([slow, other, fast, failed], ["preset", "xla"]) == [fast, other, failed]
