"""With JAX as the backend, everything from drawing to classifying works where TensorFlow is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import QUICK_COMPILE, SMALL_PRESET

pytestmark = pytest.mark.tracing

SCRIPT = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
{SMALL_PRESET}
import shutil
from PIL import Image
from utils import environment
from utils.analysis.classify import classify, load_classifier
from utils.data.prepare import prepare_dataset
from utils.data.pipeline import evaluation_batches
from utils.training import run_folder
from utils.training.run import source_of

folder = sys.argv[1]
environment.prepare()
few = dict(train_per_class=4, validation_per_class=2)
manifest = prepare_dataset("tiny-shapes", folder + "/data", **few)
config = RunConfig(
    dataset="tiny-shapes", preset="small", batch_size=48, epochs=2, split="holdout",
    data_dir=folder + "/data", run_dir=folder + "/run",
)
save = run_folder.save_checkpoint
def save_and_stop(*arguments):
    save(*arguments)
    raise KeyboardInterrupt
run_folder.save_checkpoint = save_and_stop
try:
    train(config)
except KeyboardInterrupt:
    run_folder.save_checkpoint = save
result = train(config)  # goes on
shutil.copy(folder + "/run/model.keras", folder + "/run/run.keras")
model, words = load_classifier("run", results_dir=folder + "/run", weights_dir=folder + "/run")
images, labels = evaluation_batches(source_of(config.resolve(), manifest))[0]
Image.fromarray(images[0]).save(folder + "/image.png")
rows = classify(model, words, folder + "/image.png")
print(result["status"], len(result["history"]["val_top1"]), rows.shape)
"""


def test_trains_resumes_evaluates_and_classifies(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": "jax", **QUICK_COMPILE},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Continuing run after epoch 1." in run.stdout
    assert run.stdout.splitlines()[-1] == "complete 2 (5, 4)"
