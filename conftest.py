"""Shortens the notebooks for the tests, and for nobody else; runs the tests on two processes."""

import os
import shutil
import tempfile

import pytest

# Before Keras is imported: the same backend and devices whatever the user has set, as only a CPU
# adds up in the same order each time.
os.environ["FISHNET_QUICK"] = tempfile.mkdtemp(prefix="fishnet-quick-")
os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.environ["FISHNET_QUICK"]}
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What a test compiles runs a few times.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import utils  # noqa: F401  sets what TensorFlow reads, before a test imports Keras


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    # Most of a test is tracing, on one core. The cells of a notebook stay together.
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if config.option.numprocesses is None:
        config.option.numprocesses = 2
    if config.option.numprocesses and config.option.dist == "no":
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False  # which would leave few long tests for the end


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["FISHNET_QUICK"], ignore_errors=True)
