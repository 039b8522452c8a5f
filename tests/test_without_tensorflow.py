"""With JAX as the backend, everything from drawing to classifying works where TensorFlow is not."""

import pytest
from processes import CUT_OFF, SMALL_PRESET, run_on_jax

pytestmark = pytest.mark.tracing

SCRIPT = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
{SMALL_PRESET}
{CUT_OFF}
import shutil
from PIL import Image
from utils import environment
from utils.analysis.classify import classify, load_classifier
from utils.data.prepare import prepare_dataset
from utils.data.pipeline import evaluation_batches
from utils.training.loop.network import source_of

folder = sys.argv[1]
environment.prepare()
few = dict(train_per_class=4, validation_per_class=2)
manifest = prepare_dataset("tiny-shapes", folder + "/data", **few)
config = RunConfig(
    precision="float32",
    dataset="tiny-shapes", preset="small", batch_size=48, epochs=2, split="holdout",
    data_dir=folder + "/data", run_dir=folder + "/run",
)
cut_off(config)
result = train(config)  # goes on
shutil.copy(folder + "/run/model.keras", folder + "/run/run.keras")
model, words = load_classifier("run", results_dir=folder + "/run", weights_dir=folder + "/run")
images, labels = evaluation_batches(source_of(config.resolve(), manifest))[0]
Image.fromarray(images[0]).save(folder + "/image.png")
rows = classify(model, words, folder + "/image.png")
print(result["status"], len(result["history"]["val_top1"]), rows.shape)
"""


def test_trains_resumes_evaluates_and_classifies(tmp_path):
    printed = run_on_jax(SCRIPT, tmp_path)
    assert "Continuing run after epoch 1." in printed
    assert printed.splitlines()[-1] == "complete 2 (5, 4)"
