"""Shortens the notebooks for the tests, and for nobody else."""

import os
import shutil
import tempfile


def pytest_configure(config):
    os.environ["FISHNET_QUICK"] = tempfile.mkdtemp(prefix="fishnet-quick-")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["FISHNET_QUICK"], ignore_errors=True)
