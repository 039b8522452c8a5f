from utils.experiments.benchmark import best_of


def test_the_best_of_equal_settings_counts():
    slow, fast, other = (
        {"preset": preset, "xla": False, "images_per_second": speed}
        for preset, speed in (("simple", 100.0), ("simple", 120.0), ("medium", 50.0))
    )
    failed = {"preset": "complex", "xla": False, "error": "killed"}
    assert best_of([slow, other, fast, failed], ["preset", "xla"]) == [fast, other, failed]
