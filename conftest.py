"""Shortens the notebooks for the tests, and for nobody else; runs the tests on two processes."""

import os
import shutil
import tempfile

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    # Most of a test is tracing, on one core. The cells of a notebook stay together.
    distributes = config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")
    if distributes and config.option.numprocesses is None:
        config.option.numprocesses, config.option.dist = 2, "loadfile"


def pytest_configure(config):
    os.environ["FISHNET_QUICK"] = tempfile.mkdtemp(prefix="fishnet-quick-")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["FISHNET_QUICK"], ignore_errors=True)
