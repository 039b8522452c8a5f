"""Two devices, and two processes, must train as one device does."""

import shutil
import signal
import socket

import imagenet_records
import keras
import numpy as np
import pytest
from processes import start, stop_after_a_checkpoint

from utils.data.imagenet.index import index_records
from utils.training.config import RunConfig
from utils.training.results import read_result

pytestmark = pytest.mark.tracing

TWO_CPUS = """
import os
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
else:
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
"""
# Rounding alone changes the gradients of a small FishNet by 3 % (in float64 those of one and of two
# devices agree to 1e-12). With steps this small the loss falls by some hundredths, so that 1e-4
# tells a wrong factor from rounding.
GENTLE = {"learning_rate": 5e-4, "augment": False}
LOGITS = """
import keras, numpy as np
images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
model = keras.models.load_model(options["run_dir"] + "/model.keras")
np.save(options["run_dir"] + "/logits.npy", model.predict(images, verbose=0))
"""
JOIN = "from utils.devices import join_processes; join_processes()"
WATCHED = 'assert watched[-1]["history"]["loss"], "03_train has nothing to draw"'


def losses_of(config, *processes):
    for process in processes:
        log, _ = process.communicate()
        assert process.returncode == 0, log
    result = read_result(f"{config.run_dir}/{config.run_id}.json")
    assert result["env"]["devices"] == (1 if config.distribution == "none" else 2)
    return result["history"]["loss"]


@pytest.fixture(scope="module")
def continued(shapes, tmp_path_factory):
    """Makes copies of a run that one device began, each to be continued by other devices."""
    folder = tmp_path_factory.mktemp("devices")

    def config(name, distribution="auto"):
        """Each epoch is one step, so that the history has the loss of each of the first ten."""
        return RunConfig(
            precision="float32",
            dataset="tiny-shapes", data_dir=str(shapes), batch_size=288, epochs=10,
            distribution=distribution, run_dir=str(folder / name),
        )  # fmt: skip

    begun = config("begun", "none")
    process = start(begun, before=TWO_CPUS, recipe=GENTLE)
    assert stop_after_a_checkpoint(process, begun, signal.SIGTERM), process.stdout.read()

    def copy(name, distribution="auto"):
        made = config(name, distribution)
        shutil.copytree(begun.run_dir, made.run_dir)
        return made

    return copy


@pytest.fixture(scope="module")
def losses_of_one(continued):
    config = continued("one", "none")
    losses = losses_of(config, start(config, before=TWO_CPUS, recipe=GENTLE))
    assert losses[-1] < losses[0] * (1 - 1e-2)
    return losses


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_are_as_one(continued, losses_of_one, backend):
    config = continued(backend)
    process = start(config, backend, before=TWO_CPUS, after=LOGITS, recipe=GENTLE)
    np.testing.assert_allclose(losses_of(config, process), losses_of_one, rtol=1e-4)
    # What was trained on one backend gives the same logits on the other (here TensorFlow).
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    logits = keras.models.load_model(f"{config.run_dir}/model.keras").predict(images, verbose=0)
    np.testing.assert_allclose(np.load(f"{config.run_dir}/logits.npy"), logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_are_as_one(continued, losses_of_one):
    config = continued("processes")
    processes = start_two_processes(config, GENTLE)
    np.testing.assert_allclose(losses_of(config, *processes), losses_of_one, rtol=1e-4)


@pytest.mark.slow
def test_where_one_process_is_stopped_all_stop_with_a_checkpoint(continued, losses_of_one):
    config = continued("stopped")
    processes = start_two_processes(config, GENTLE)
    assert stop_after_a_checkpoint(processes[1], config, signal.SIGTERM)
    logs = [process.communicate()[0] for process in processes]
    assert all("TrainingError: Stopped by SIGTERM after epoch" in log for log in logs), logs
    again = start_two_processes(config, GENTLE)
    np.testing.assert_allclose(losses_of(config, *again), losses_of_one, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_train_on_imagenet_s_records(tmp_path):
    pytest.importorskip("cv2")
    manifest = index_records(
        imagenet_records.write_shards(tmp_path / "records"), tmp_path / "data", 224
    )
    config = RunConfig(
        dataset="imagenet",
        data_dir=str(tmp_path / "data"),
        run_dir=str(tmp_path / "run"),
        recipe="paper",
        epochs=2,
        batch_size=4,
        precision="float32",
    )
    losses = losses_of(config, *start_two_processes(config))
    assert manifest["counts"]["train"] == 18
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def start_two_processes(config, recipe=None):
    """Starts a training on JAX that two processes of this machine share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    return [
        start(
            config,
            "jax",
            before=JOIN,
            after=WATCHED,
            recipe=recipe,
            **together,
            KERAS_DISTRIBUTION_PROCESS_ID=i,
        )  # fmt: skip
        for i in "01"
    ]
