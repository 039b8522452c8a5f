import keras
import pytest

from utils.training.config import RunConfig
from utils.training.loop import callbacks
from utils.training.loop.callbacks import Measurements, Plateau
from utils.training.results import history_names
from utils.training.run_folder import TrainState


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def test_the_rate_falls_tenfold_at_a_plateau_and_stays_there_in_a_continued_run(model):
    losses, monitor = [3.0, 2.0, 2.0, 2.1, 1.0, 1.1, 1.2], "val_cross_entropy"
    expected = [1e-3] * 4 + [1e-4] * 3 + [1e-5]  # after so many epochs

    def begun(past):
        plateau = Plateau(past, initial_rate=1e-3, monitor=monitor, mode="min", patience=2)
        plateau.set_model(model)
        plateau.on_train_begin()
        return plateau

    plateau, rates = begun([]), []
    for epoch, loss in enumerate(losses):
        rates.append(float(model.optimizer.learning_rate))
        plateau.on_epoch_end(epoch, {monitor: loss})
    assert [*rates, float(model.optimizer.learning_rate)] == pytest.approx(expected)
    for done in range(len(losses) + 1):
        begun(losses[:done])
        assert float(model.optimizer.learning_rate) == pytest.approx(expected[done])


def test_the_seconds_of_an_epoch_that_was_cut_off_count(model):
    state = TrainState({name: [] for name in history_names()}, step=5, elapsed=1000.0)
    config = RunConfig().resolve()
    measurements = Measurements(config, state, 10, [], lambda: None)
    measurements.set_model(model)
    logs = {"loss": 1.0, "cross_entropy": 1.0, "top1": 0.5, "top5": 0.9}
    measurements.on_epoch_begin(0)
    measurements.on_train_batch_end(4, logs)
    assert (state.step, state.elapsed >= 1000) == (10, True)
    measurements.on_epoch_end(0, logs)
    assert state.history["seconds"][0] >= 1000
    assert state.history["val_loss"] == [None]
    assert (state.epoch, state.step, state.elapsed) == (1, 0, 0.0)


def test_images_per_second_are_those_of_training(monkeypatch):
    """Ten steps of 256 images in 5 seconds, and an evaluation of 3."""
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    state = TrainState({name: [] for name in history_names()})
    measurements = Measurements(RunConfig().resolve(), state, 10, [], lambda: None)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    measurements.set_model(model)
    logs = {"loss": 1.0, "cross_entropy": 1.0, "top1": 0.5, "top5": 0.9}
    measurements.on_epoch_begin(0)
    now[0] += 5
    measurements.on_test_begin()
    now[0] += 3
    measurements.on_epoch_end(0, logs | {f"val_{name}": value for name, value in logs.items()})
    assert (state.history["seconds"], state.history["images_per_second"]) == ([8.0], [512.0])
