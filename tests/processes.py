"""A training in a process of its own, for tests that kill it or give it other devices."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from utils.training.run_folder import checkpoints_in

# Makes the preset "small" known.
SMALL_PRESET = """
from utils.models.presets import PRESETS, FishNetConfig
from utils.training.config import RunConfig
from utils.training.run import train
planes = (8, 16, 32, 64, 64, 64, 48, 32, 40, 104, 200)
PRESETS["small"] = FishNetConfig(planes, (1,) * 10, (0,) * 6, stages="tail")
"""
CHILD = f"""{SMALL_PRESET}
import dataclasses, json, sys
from utils.training.recipes import RECIPES
options, recipe = json.loads(sys.argv[1]), json.loads(sys.argv[2])
RECIPES["tuned"] = dataclasses.replace(RECIPES["tuned"], **recipe)
watched = []
train(RunConfig(preset="small", **options), watch=watched.append)
"""

# Defines `cut_off`, which trains, but ends as if killed once the first checkpoint is written.
CUT_OFF = """
from utils.training import run_folder

def cut_off(config):
    save = run_folder.save_checkpoint
    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt
    run_folder.save_checkpoint = save_and_stop
    try:
        train(config)
    except KeyboardInterrupt:
        run_folder.save_checkpoint = save
"""


def start(config, backend="tensorflow", *, before="", after="", recipe=None, **env):
    """Starts a small FishNet's training.

    `config` gives all but the preset, `recipe` what is to be changed in "tuned"; `before` and
    `after` are code to run around it.
    """
    options = {name: value for name, value in asdict(config).items() if name != "preset"}
    return subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            before + CHILD + after,
            json.dumps(options),
            json.dumps(recipe or {}),
        ],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": backend, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop_after_a_checkpoint(process, config, number, delay=0.0):
    """Sends a signal some seconds after the next checkpoint; False if the process ended well."""
    before = checkpoints_in(config.run_dir)[:1]
    while checkpoints_in(config.run_dir)[:1] == before:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    return process.wait() != 0


def run_on_jax(script, *arguments):
    """Runs a script to its end with JAX as the backend; returns what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
