"""A repository of the Hugging Face Hub, as far as it goes without the network."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from utils.export import hub as module
from utils.export.hub import main, upload, write_repository

huggingface_hub = pytest.importorskip("huggingface_hub")
RUN = "simple-tuned-20ep-seed0"
RESULT = json.loads(Path(f"report/results/{RUN}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    write_repository(folder, RUN, "somebody/fishnet")
    return folder


class Hub:
    """Stands for `HfApi`: notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def create_repo(self, repo_id, **options):
        self.asked.append((repo_id, options))
        return SimpleNamespace(repo_id=f"{repo_id}-1")

    def upload_folder(self, **options):
        self.asked.append(
            {**options, "files": {p.name for p in Path(options["folder_path"]).iterdir()}}
        )
        return SimpleNamespace(commit_url="https://hub/commit")


@pytest.mark.tracing
def test_keras_loads_it_from_the_hub(folder, monkeypatch):
    asked = []

    def snapshot_download(repo_id, **_):
        asked.append(repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = keras.saving.load_model("hf://somebody/fishnet")
    assert asked == ["somebody/fishnet"]
    expected = keras.saving.load_model(f"report/weights/{RUN}.keras")
    for ours, theirs in zip(expected.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_card_and_what_is_beside_it(folder):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.model_name == RUN
    values = [result.metric_value for result in card.data.eval_results]
    assert values == [round(RESULT["metrics"][name], 4) for name in ("top1", "top5")]
    assert 'keras.saving.load_model("hf://somebody/fishnet")' in card.text
    assert "654,200 parameters" in card.text
    whole = Path("report/weights/README.md").read_text()
    for name in module.KEPT_SECTIONS:
        section = re.search(rf"^## {name}\n(.+?)(?=^## |\Z)", whole, re.M | re.S)[1].strip()
        assert f"## {name}\n\n{section}" in card.text
    assert json.loads((folder / "result.json").read_text())["run_id"] == RUN
    classes = json.loads((folder / "classes.json").read_text())
    assert (len(classes), classes[0]) == (200, "goldfish, Carassius auratus")


def test_upload(folder):
    api = Hub()
    assert upload(folder, "somebody/fishnet", private=True, api=api) == "https://hub/commit"
    made, uploaded = api.asked
    assert made == ("somebody/fishnet", {"private": True, "exist_ok": True})
    assert uploaded["repo_id"] == "somebody/fishnet-1"  # as the Hub calls it
    assert uploaded["files"] == {
        *("README.md", "result.json", "classes.json"),
        *("config.json", "metadata.json", "model.weights.h5"),
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simpel", "a/b"], "kept weights: complex-stem-half-100ep-seed0, .* Received: 'simpel'"),
        (["segmentation-simple-seed0", "a/b"], "Received: 'segmentation-simple-seed0'"),
        ([RUN, "fishnet"], "repository must be USER/NAME. Received: 'fishnet'"),
        (["simpel", "a/b", "--dry-run"], "Received: 'simpel'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_uploaded(monkeypatch, capsys, arguments, says):
    monkeypatch.setattr(module, "upload", lambda *_, **__: pytest.fail("uploaded"))
    monkeypatch.setattr(sys, "argv", ["hub", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert re.search(says, capsys.readouterr().err)
    assert not Path("runs/hub/simpel").exists()
