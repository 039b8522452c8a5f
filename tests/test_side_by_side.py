import contextlib
import multiprocessing
import sys

import pytest

from utils.experiments import side_by_side
from utils.models.presets import get_preset

# Stands for a checkout of the authors' code: a network that notes what it is given.
FISHNET = """
import torch
from .blocks import seen

class Fish(torch.nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        seen["sizes"] = sizes
        self.conv = torch.nn.Conv2d(3, sizes["num_cls"], 3, stride=32)

    def forward(self, x):
        y = self.conv(x)
        seen["precision"] = y.dtype
        seen["channels_last"] = x.is_contiguous(memory_format=torch.channels_last)
        return y.mean((2, 3))

fish = Fish
"""


@pytest.fixture
def authors_code(tmp_path):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    models = tmp_path / "FishNet/models"
    models.mkdir(parents=True)
    (models / "__init__.py").write_text("import something_that_is_not_installed")
    (models / "blocks.py").write_text("seen = {}")
    (models / "fishnet.py").write_text(FISHNET)
    yield models.parent
    torch.set_num_threads(threads)
    for name in ("models", "models.blocks", "models.fishnet"):  # of this checkout
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "precision", "channels_last", "compiled"),
    [
        ("theirs as published: float32, channels first", "float32", False, False),
        ("theirs, float32", "float32", True, False),
        ("theirs, bfloat16", "bfloat16", True, False),
        ("theirs, float32, compiled", "float32", True, True),
        ("theirs, bfloat16, compiled", "bfloat16", True, True),
    ],
)
def test_a_step_of_theirs_is_as_its_name_says(
    authors_code, monkeypatch, name, precision, channels_last, compiled
):
    import torch

    done = []
    monkeypatch.setattr(torch, "compile", lambda model: done.append("compiled") or model)
    config = get_preset("simple")
    code, dtype, options = side_by_side.SETTINGS[name]
    step = side_by_side.their_step(config, dtype, authors_code, 8, 1, **options)
    losses = [step() for _ in range(3)]
    assert losses[2] < losses[1] < losses[0] < 7
    from models.blocks import seen  # of the stand-in

    assert code == "theirs"
    assert seen["precision"] == getattr(torch, precision)
    assert seen["channels_last"] == channels_last
    assert done == ["compiled"] * compiled
    assert seen["sizes"]["network_planes"] == config.network_planes
    assert seen["sizes"]["num_cls"] == 200


def test_settings_take_turns_with_the_reference(authors_code, monkeypatch):
    reference = "theirs, float32"  # no TensorFlow, for speed
    monkeypatch.setattr(side_by_side, "REFERENCE", reference)
    options = {"windows": 2, "steps": 1, "batch_size": 2, "cores": 1}
    published = "theirs as published: float32, channels first"
    monkeypatch.setitem(side_by_side.SETTINGS, "not there", ("theirs", "", {}))  # in the process
    row, failed = side_by_side.compare(
        "simple", [published, "not there"], authors_code=authors_code, **options
    )
    assert {name: row[name] for name in ("setting", "error", *options)} == {
        "setting": published, "error": "", **options,
    }  # fmt: skip
    for name in ("images_per_second", "images_per_cpu_second", "ratios"):
        assert len(row[name]) == 2
        assert min(row[name]) > 0
    assert failed["error"] == "KeyError: 'not there'"
    assert "ratios" not in failed


def test_a_setting_that_is_not_ready_in_time_is_given_up():
    place = ("simple", 0, 1, None, 2, 1)  # the second: seconds of patience
    with (
        pytest.raises(TimeoutError, match="not done after 0 s"),
        side_by_side._process(side_by_side.REFERENCE, *place),
    ):
        pass
    assert multiprocessing.active_children() == []


def test_without_the_reference_the_rest_is_not_begun(monkeypatch):
    begun = []

    @contextlib.contextmanager
    def process(name, *place):
        def turn():
            if name == side_by_side.REFERENCE and len(begun) > 2:
                raise EOFError
            return {"images_per_second": 1.0, "images_per_cpu_second": 1.0}

        begun.append(name)
        yield turn

    monkeypatch.setattr(side_by_side, "_process", process)
    names = [name for name in side_by_side.SETTINGS if name.startswith("ours, Keras'")]
    rows = side_by_side.compare("simple", [*names, names[0]])
    assert begun == [side_by_side.REFERENCE, *names]
    killed = f"{side_by_side.REFERENCE}, beside it: killed"
    assert [row["error"] for row in rows] == ["", killed, killed]
    assert rows[0]["ratios"] == [1.0] * 5


def test_a_reference_that_does_not_start_leaves_a_row_for_each_setting():
    names = ["theirs, float32", "ours, Keras' layers, float32"]
    rows = side_by_side.compare([[1], [1], [1]], names, patience=60)
    assert [row["setting"] for row in rows] == names
    why = f"{side_by_side.REFERENCE}, beside it: ValueError: network_planes must be 11 whole"
    assert all(row["error"].startswith(why) for row in rows)
    assert "ratios" not in rows[0]
    assert multiprocessing.active_children() == []


def test_ratios_are_of_images_per_cpu_second_window_by_window():
    pairs = [
        (
            {"images_per_second": 9.0, "images_per_cpu_second": mine},
            {"images_per_second": 1.0, "images_per_cpu_second": other},
        )
        for mine, other in ((30.0, 20.0), (10.0, 40.0))
    ]
    assert side_by_side._by_window(pairs) == {
        "images_per_second": [9.0, 9.0],
        "images_per_cpu_second": [30.0, 10.0],
        "ratios": [1.5, 0.25],
    }


@pytest.mark.parametrize("installed", [True, False])
def test_what_is_missing_is_said(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(side_by_side, "find_spec", lambda name: "a spec" if installed else None)
    assert side_by_side.missing(None) == "no checkout of the authors' code is given"
    assert side_by_side.missing(tmp_path).endswith(
        "has no models/fishnet.py: not a checkout of the authors' code"
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models/fishnet.py").touch()
    found = side_by_side.missing(tmp_path)
    assert found == ("" if installed else "PyTorch is not installed")


def test_a_window_by_a_clock_of_ours(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(side_by_side.time, "process_time", lambda: 2 * now[0])

    def step():
        now[0] += 0.5

    found = side_by_side._measure(step, 4, 64)
    assert found == {"images_per_second": 128.0, "images_per_cpu_second": 64.0}
