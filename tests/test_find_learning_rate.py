import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from utils.figures.run_charts import plot_sweep
from utils.training import find_learning_rate
from utils.training.find_learning_rate import suggested_rate, sweep_learning_rates
from utils.training.loop import network


def test_the_suggestion_is_a_tenth_of_where_the_smoothed_loss_is_lowest():
    rates = np.geomspace(1e-5, 10, 61)
    losses = 4 + (np.log10(rates) + 1) ** 2  # lowest at 0.1
    losses[10] = 0  # a lucky step
    smoothed = find_learning_rate.smoothed(list(losses))
    sweep = pd.DataFrame({"learning_rate": rates, "loss": losses, "smoothed": smoothed})
    assert suggested_rate(sweep) == pytest.approx(0.01)
    (axes,) = plot_sweep(sweep, suggested_rate(sweep)).axes
    assert [text.get_text() for text in axes.get_legend().texts] == [
        "of a step",
        "smoothed",
        "worth a try: 0.01",
    ]
    assert list(axes.lines[2].get_xdata()) == pytest.approx([0.01, 0.01])


@pytest.mark.tracing
def test_a_sweep_leaves_nothing(make_config, tmp_path, monkeypatch):
    models = []

    def compiled_model(*given):
        built = network.compiled_model(*given)
        models.append(built[0])
        return built

    monkeypatch.setattr(find_learning_rate, "compiled_model", compiled_model)
    sweep = sweep_learning_rates(make_config(batch_size=48), steps=8)  # of six steps an epoch
    schedule = models[0].optimizer.get_config()["learning_rate"]["config"]
    # What a run of this batch size makes of it.
    assert schedule["initial_learning_rate"] == pytest.approx(1e-5 * (48 / 256) ** 0.5)
    assert list(sweep["learning_rate"]) == pytest.approx(np.geomspace(1e-5, 10, 8))
    assert sweep["loss"][0] == pytest.approx(np.log(24), rel=0.3)  # an untrained network's
    assert sweep["smoothed"][0] == pytest.approx(sweep["loss"].mean(), rel=1e-5)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("last", [30, np.nan])
def test_steps_after_the_loss_has_diverged_are_left_out(last):
    class Bar:
        def update(self):
            pass

    steps = [3.0] * 20 + [30.0, last]
    means = np.cumsum(steps) / np.arange(1, 23)  # what Keras logs
    losses = find_learning_rate._Losses(Bar())
    for step in range(21):
        losses.on_train_batch_end(step, {"loss": means[step]})
    with pytest.raises(find_learning_rate._Diverged):
        losses.on_train_batch_end(21, {"loss": means[21]})
    assert losses.found == pytest.approx(steps, nan_ok=True)


STAND_IN = """
import sys, types
import pandas as pd
from utils import environment
finder = types.ModuleType("utils.training.find_learning_rate")
sweep = pd.DataFrame({"learning_rate": [0.5, 1, 2], "loss": [3, 2, 4], "smoothed": [3, 2, 4]})
finder.sweep_learning_rates = lambda config: sweep
finder.suggested_rate = lambda sweep: 0.125
sys.modules[finder.__name__] = finder
find_learning_rate, config = True, None
"""


@pytest.mark.tracing
def test_the_notebook_ends_without_an_error(tmp_path):
    book = nbformat.read("notebooks/03_train.ipynb", 4)
    (finder,) = (c for c in book.cells if "sweep_learning_rates" in c.source)
    sources = [STAND_IN, finder.source, "raise RuntimeError"]
    book.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(book, tmp_path / "end.ipynb")
    command = [sys.executable, "-m", "papermill", str(tmp_path / "end.ipynb")]
    command += [str(tmp_path / "out.ipynb"), "--cwd", str(Path.cwd())]
    subprocess.run(command, check=True, capture_output=True)
    _, cell, after = nbformat.read(tmp_path / "out.ipynb", 4).cells
    kinds = [o.output_type for o in cell.outputs]
    assert kinds == ["display_data", "stream", "error"]  # one plot, no comment on the exit
    text = cell.outputs[1].text
    assert text == (
        "Worth a try: -p learning_rate 0.12\nThe notebook ends here; the cells below are not run.\n"
    )
    assert not after.outputs
