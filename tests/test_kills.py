"""Real processes are killed at random moments and must end as if nothing had happened."""

import signal
from pathlib import Path

import numpy as np
import pytest
import runs
from processes import start, stop_after_a_checkpoint

from utils import environment
from utils.training.config import RunConfig
from utils.training.results import read_result, write_benchmark
from utils.training.run_folder import checkpoints_in

pytestmark = pytest.mark.tracing

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "report/results/kills.json"


def final_state(config):
    """All that the last checkpoint holds but the seconds, and all that was measured."""
    with np.load(checkpoints_in(config.run_dir)[0]) as file:
        arrays = {name: file[name].tobytes() for name in file.files if name != "state"}
    result = read_result(f"{config.run_dir}/{config.run_id}.json")
    assert result["status"] == "complete"
    return arrays, *runs.learned(result)


def trained_with_kills(
    shapes, folder, recipe, backend, signals, *, epochs, window, precision="float32"
):
    """Trains once undisturbed and once with kills; asserts that both end alike.

    Returns what is known of each kill.
    """

    def config(name):
        return RunConfig(
            precision=precision,
            dataset="tiny-shapes", data_dir=str(shapes), recipe=recipe, batch_size=24, ema=0.9,
            epochs=epochs, checkpoint_every="5 steps", run_dir=str(folder / name),
        )  # fmt: skip

    whole, cut = config("whole"), config("cut")
    cache = {  # JAX need not compile the same again after each kill
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    log, _ = start(whole, backend, **cache).communicate()
    assert log.count("\nepoch ") == epochs, log
    random, kills = np.random.default_rng(0), []
    checkpoints = Path(cut.run_dir, "checkpoints")
    for number in signals:
        delay = random.uniform(0, window)
        process = start(cut, backend, **cache)
        assert stop_after_a_checkpoint(process, cut, number, delay), "the run ended before its kill"
        log = process.stdout.read()
        if number != signal.SIGKILL:
            assert f"Stopped by {signal.Signals(number).name} after epoch" in log
            assert "To go on: papermill notebooks/03_train.ipynb" in log
        kills.append(
            {
                "backend": backend,
                "recipe": recipe,
                "precision": precision,
                "signal": signal.Signals(number).name,
                "seconds_after_a_checkpoint": round(delay, 3),
                "newest_checkpoint": checkpoints_in(cut.run_dir)[0].stem,
                "while_writing": bool(list(checkpoints.glob(".*"))),
            }
        )
    log, _ = start(cut, backend, **cache).communicate()
    assert "Continuing cut after epoch" in log, log
    assert final_state(cut) == final_state(whole)
    return kills


def test_a_killed_process_ends_bit_equal(shapes, tmp_path):
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    trained_with_kills(shapes, tmp_path, "tuned", "tensorflow", signals, epochs=8, window=0.2)


@pytest.mark.slow
def test_fifty_kills(shapes, tmp_path):
    kills = []
    for backend, recipe, precision, count in (
        ("tensorflow", "tuned", "mixed_bfloat16", 13), ("tensorflow", "course", "float32", 13),
        ("jax", "tuned", "float32", 12), ("jax", "course", "float32", 12),
    ):  # fmt: skip
        kills += trained_with_kills(
            shapes, tmp_path / backend / recipe, recipe, backend, [signal.SIGKILL] * count,
            epochs=30, window=1.0, precision=precision,
        )  # fmt: skip
    evidence = {
        "command": "pytest -m slow tests/test_kills.py",
        "env": environment.describe(),
        "all_bit_equal": True,
        "kills": kills,
    }
    write_benchmark(EVIDENCE, evidence)
