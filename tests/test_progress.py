"""What is seen of a run: in a terminal, in papermill's, and in the notebook that is left."""

import dataclasses
import os
import pty
import re
import select
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import pytest

from utils.data.manifest import load_manifest
from utils.progress import Bar, Terminal
from utils.training.config import RunConfig
from utils.training.loop.network import source_of
from utils.training.loop.progress import Progress, duration, forecast, summary
from utils.training.run_folder import TrainState

ROOT = Path(__file__).parents[1]
CELL = f"""
import os, sys, time
os.chdir({str(ROOT)!r})
sys.path.insert(0, ".")
from utils.figures.run_charts import LivePlot
from utils.progress import Bar, repeat_in_terminal
repeat_in_terminal()
repeat_in_terminal()  # as by a cell that is run again
print("before")
plot = LivePlot()
result = {{"dataset": {{"split": "val"}}, "config": {{"epochs": 2}}, "history": {{
    n: [] for n in ("loss", "top1", "val_loss", "val_top1", "learning_rate")}}}}
plot(result)
with Bar(unit=" images", mininterval=0, delay=0.01) as bar:
    for epoch in (1, 2):
        bar.begin(f"epoch {{epoch}}/2", total=300)
        for step in range(3):
            time.sleep(0.02)
            bar.update(100)
        for name, values in result["history"].items():
            values.append(0.1 * epoch if name != "val_loss" or epoch == 2 else None)
        bar.write(f"epoch {{epoch}}/2 is over")
        plot(result)
"""


@pytest.fixture
def terminal():
    """(what reads it, its file) of a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "40", "cols", "120"], stdin=theirs, check=True)
    yield ours, theirs
    for file in (ours, theirs):
        os.close(file)


def shown(ours, process=None):
    """What comes until the process is over, and then for a moment."""
    text = b""
    while (ready := select.select([ours], [], [], 0.2)[0]) or (process and process.poll() is None):
        text += os.read(ours, 10_000) if ready else b""
    return text.decode()


def as_it_stands(text):
    """The lines of a terminal, each as what was written over it left it."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in line.split("\r"):
            if part.startswith("\x1b[K"):
                cells, part = "", part.removeprefix("\x1b[K")
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


def test_text_takes_the_place_of_bars(terminal):
    ours, theirs = terminal
    os.write(theirs, b"papermill's bar")
    with open(os.dup(theirs), "w") as file:
        both = Terminal(file)
        for text in ("line", " 1", "\n", "\rour bar", "line 2\n", "\rour bar, longer", "line 3\n"):
            both.write(text)
    assert as_it_stands(shown(ours)) == ["line 1", "line 2", "line 3", ""]
    assert both.columns == 100


def test_a_bar_that_goes_on_in_an_epoch(terminal):
    ours, theirs = terminal
    with open(os.dup(theirs), "w") as file, Bar(unit=" images", file=file, delay=0) as bar:
        bar.begin("epoch 2/8", total=1000, done=400)
        bar.set_postfix_str("loss 3.100", refresh=False)
        bar.update(100)
        bar.refresh()
        (line, _) = as_it_stands(shown(ours) + "\n")
    assert line.startswith("epoch 2/8:  50%|")
    assert re.search(r"\| 500/1000 \[\d\d:\d\d<\d\d:\d\d, [\d.]+ images/s, loss 3.100\]$", line)


def test_a_bar_that_nobody_looks_at(terminal, capsys):
    """As the output is no terminal, or as another process shows one."""
    with Bar(total=3, delay=0, mininterval=0) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "")
    ours, theirs = terminal
    with open(os.dup(theirs), "w") as file:
        with Bar(total=3, delay=0, mininterval=0, file=file, looked_at=False) as bar:
            bar.update(2)
        file.write("the end")
    assert shown(ours) == "the end"


@pytest.mark.tracing
def test_papermill_in_a_terminal(terminal, tmp_path):
    ours, theirs = terminal
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    files = [str(tmp_path / name) for name in ("in.ipynb", "out.ipynb")]
    others = ("JPY_SESSION_NAME", "PYTEST_CURRENT_TEST")  # Jupyter's and pytest's kernels differ
    env = {name: value for name, value in os.environ.items() if name not in others}
    process = subprocess.Popen(
        [sys.executable, "-m", "papermill", *files, "-k", "python3"],
        env=env,
        stdout=theirs,
        stderr=theirs,
    )
    text = shown(ours, process)
    assert process.returncode == 0, text
    assert text.count("epoch 1/2:  67%|") == 1
    lines = as_it_stands(text)
    first = lines.index("before")
    assert lines[first + 1 : first + 3] == ["epoch 1/2 is over", "epoch 2/2 is over"]
    assert re.match(r"epoch 2/2: 100%\|█+\| 300/300 \[.* images/s\]$", lines[first + 3])
    assert lines[first + 4].startswith("Executing: 100%")

    (cell,) = nbformat.read(tmp_path / "out.ipynb", 4).cells
    outputs = [o.get("text") or o.data.get("text/plain") for o in cell.outputs]
    assert outputs[0] == "before\n"
    assert outputs[1].startswith("<Figure")
    assert re.match(r"epoch 2/2: 100%\|█+\| 300/300 \[.* images/s\]$", outputs[2])
    assert "".join(outputs[3:]) == "epoch 1/2 is over\nepoch 2/2 is over\n"


@pytest.fixture(scope="module")
def source(shapes):
    return source_of(CONFIG, load_manifest(shapes))  # 288 and 96 images


CONFIG = RunConfig(
    dataset="tiny-shapes", batch_size=24, epochs=4, evaluate_every=2, stem="half",
    image_sizes="32x2-64x2", runs_dir="/drive/runs", precision="float32",
).resolve()  # fmt: skip


def test_the_first_lines_say_what_will_happen_and_how_to_go_on(source):
    env = {"devices": 1, "device": "a CPU", "cpu_count": 2, "backend": "jax"}
    first, second, third = summary(
        CONFIG, source, {"env": env, "model": {"parameters": 607_560}}
    ).splitlines()
    assert first == (
        "simple, 607,560 parameters, with the recipe tuned on tiny-shapes: 4 epochs of 12 steps of "
        "24 images. After every 2 epochs 96 images of val are evaluated."
    )
    assert (
        second
        == f"On a CPU (2 CPU cores) by jax in float32. All of it is kept in {CONFIG.run_dir}."
    )
    assert third == f"To stop: Ctrl-C; in Jupyter the stop button. To go on: {CONFIG.command}"
    held_out = dataclasses.replace(source, split="holdout")
    env["devices"] = 4
    text = summary(CONFIG, held_out, {"env": env, "model": {"parameters": 1}})
    assert "(4 devices, 2 CPU cores)" in text
    one = dataclasses.replace(CONFIG, epochs=1, evaluate_every=1)
    text_of_one = summary(one, source, {"env": env, "model": {"parameters": 1}})
    assert "tiny-shapes: 1 epoch of 12 steps" in text_of_one
    assert f"After every 2 epochs {held_out.manifest['counts']['holdout']} images of val" in text


def test_the_forecast_counts_smaller_images_and_evaluations(source):
    """A step in the first epochs takes a quarter of one in the others."""
    state = TrainState({}, epoch=1, step=6)  # half an epoch, two whole ones, 2 * 96 / 3 images
    line = forecast(CONFIG, source, state, rate=0.1)
    steps = (6 / 4 + 24 + 2 * 96 / 3 / 24) * 4
    assert line.startswith("2 images/s, about 2.0 min per epoch, 3 to go: over in about ")
    assert f"about {duration(steps / 0.1)}, at " in line
    (end,) = re.findall(r"at (\d\d:\d\d)\. Memory \d+\.\d GiB$", line)
    near = [datetime.now() + timedelta(seconds=steps / 0.1 + s) for s in (-60, 0)]
    assert end in {f"{time:%H:%M}" for time in near}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(29, "29 s"), (31, "1 min"), (3569, "59 min"), (3571, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("together", [1, 4])
def test_the_bar_follows_the_steps(source, together, capsys):
    """In an epoch that was cut off, and then in a whole one of several steps in one program."""
    config = dataclasses.replace(CONFIG, image_sizes=None)
    source = dataclasses.replace(source, batch_size=4)  # 72 steps
    config = dataclasses.replace(config, batch_size=4)
    bar, state = BarOfNoone(), TrainState({}, step=8)
    progress = Progress(config, source, state, bar)
    for epoch in (0, 1):
        progress.on_epoch_begin(epoch)
        for batch in range((72 - state.step) // together):
            state.step += together
            progress.on_train_batch_end(batch, {"loss": batch})
        progress.on_test_begin()
        state.epoch, state.step = state.epoch + 1, 0
    per = 4 * together
    (first, *updates), (second, *others) = (
        bar.seen[: 64 // together + 1],
        bar.seen[-72 // together - 1 :],
    )
    assert (first, second) == (("epoch 1/4", 288, 32), ("epoch 2/4", 288, 0))
    assert updates == [per] * (64 // together)
    assert others == [per] * (72 // together)
    shown = [f"loss {step // together}.000" for step in range(0, 72, 20)]
    assert bar.postfixes[-5:] == [*shown, "evaluating"]
    assert len(bar.lines) == 1
    assert bar.lines[0].startswith(bar.lines[0].split()[0] + " images/s, about ")


class BarOfNoone:
    def __init__(self):
        self.seen, self.postfixes, self.lines = [], [], []
        self.update, self.write = self.seen.append, self.lines.append

    def begin(self, description, total, done):
        self.seen.append((description, total, done))

    def set_postfix_str(self, text, refresh=True):
        self.postfixes.append(text)
