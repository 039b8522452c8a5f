from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.data import pipeline
from utils.data.manifest import load_manifest
from utils.experiments import comparison, processes
from utils.training.results import read_result

pytestmark = pytest.mark.tracing


def test_networks_are_compared_in_pairs():
    runs = comparison.comparison_runs("localization")
    assert [*runs][:2] == [("FishNet", 0), ("FishNet", 1)]
    assert runs["its tail alone", 1].run_dir == "runs/localization-simple-tail-seed1"
    assert len({run.run_id for run in runs.values()}) == 6
    (settings,) = {
        (run.task, run.kind, run.epochs, run.fraction, run.recipe, run.split)
        for run in runs.values()
    }
    assert settings == ("localization", "ablation", 5, 1.0, "tuned-v1", "val")
    pixels = comparison.comparison_runs("segmentation")
    assert pixels["U-Net", 0].dataset == "tiny-shapes"
    file = pixels["U-Net", 0].result_file  # of drawn images, and to be committed all the same
    assert str(file) == "report/results/segmentation-unet-seed0.json"


def test_committed_weights_are_found_without_the_folders_of_their_runs():
    boxes = comparison.comparison_runs("localization")["FishNet", 0]
    masks = comparison.comparison_runs("segmentation", seeds=(0,))
    for run in (boxes, *masks.values()):
        assert Path(run.resolve().weights_dir, f"{run.run_id}.keras").exists()


def test_differences_are_those_of_pairs():
    def result(top1, parameters):
        metrics = dict.fromkeys(("iou", "localized"), 0.5) | {"top1": top1}
        return {"metrics": metrics, "model": {"parameters": parameters, "macs": 9}}

    found = {("FishNet", 0): result(0.40, 7), ("FishNet", 1): result(0.50, 7)}
    found |= {("tail", 0): result(0.30, 5), ("tail", 1): result(0.46, 5)}
    rows = comparison.comparison_table("localization", found)
    tail = rows.loc["tail"]
    assert (tail["parameters"], tail["macs"], tail["top1"]) == (5, 9, pytest.approx(0.38))
    assert tail["top1 difference"] == pytest.approx(-7)  # -10 and -4
    assert tail["top1 by seed"] == pytest.approx([-10, -4])
    assert rows["n"].tolist() == [2, 2]
    assert rows.loc["FishNet", ["top1 difference", "top1 by seed"]].tolist() == [0, [0, 0]]
    assert tail["iou difference"] == 0

    shown = comparison.with_differences(rows)
    assert shown.columns.tolist() == ["parameters", "MACs", "seeds", "top-1", "IoU", "localized"]
    assert shown["top-1"].tolist() == ["45.0%", "38.0% (-10.0 / -4.0)"]
    one = comparison.comparison_table("localization", {k: v for k, v in found.items() if not k[1]})
    assert comparison.with_differences(one)["top-1"].tolist() == ["40.0%", "30.0% (-10.0)"]


def test_all_background(shapes):
    manifest = load_manifest(shapes)
    found = comparison.background_baseline(shapes, manifest)
    boxes = pipeline.target_boxes(shapes, manifest)
    outside = 1 - np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).mean()
    assert outside < found["accuracy"] < 1  # a shape fills part of its box
    assert found["iou"] == pytest.approx(found["accuracy"] / 25)  # nothing of the 24 classes


def test_only_what_is_missing_is_run(monkeypatch, tmp_path):
    """The first run ends well, the second does not, and is the only one to be tried again."""
    runs = comparison.comparison_runs(
        "segmentation", runs_dir=str(tmp_path), results_dir=None, seeds=(0,)
    )
    first, second, _ = runs.values()
    tried = []

    class Process:
        def __init__(self, config):
            tried.append(config)

        def wait(self):
            pass

        def poll(self):
            return 0

    results = {first: {"run_id": "first", "history": {"loss": [1.0, 0.5]}}}
    monkeypatch.setattr(processes, "start", Process)
    monkeypatch.setattr(processes.results, "complete_result", results.get)
    monkeypatch.setattr(processes.results, "epoch_line", lambda *_: "a line")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="segmentation-simple-tail-seed0 failed; see .*txt"):
            processes.run_missing([first, second])
    assert tried == [second, second]
    results[second] = {"run_id": "second", "history": {"loss": [1.0]}}
    assert processes.run_missing([first, second]) == [results[first], results[second]]
    assert len(tried) == 2


def test_baselines_are_kept(tmp_path):
    boxes = pd.DataFrame({"iou": [0.4], "half": [0.3], "box": [(0, 0, 1, 1)]}, index=["whole"])
    path = comparison.keep_baselines(boxes, {"iou": 0.1, "accuracy": 0.9}, tmp_path)
    kept = read_result(path)
    assert kept["localization"] == {"whole": {"iou": 0.4, "half": 0.3}}
    assert kept["segmentation"] == {"iou": 0.1, "accuracy": 0.9}
    assert kept["command"].endswith("-p update_tables True")


def numpy_iou(box, boxes):
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return inside / (area + np.prod(box[2:] - box[:2]) - inside)


def test_fixed_boxes(shapes):
    manifest = load_manifest(shapes)
    rows = comparison.fixed_box_baselines(shapes, manifest)
    boxes = pipeline.target_boxes(shapes, manifest)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert rows.loc["whole image", "iou"] == pytest.approx((width * height).mean(), rel=1e-5)
    mean = pipeline.target_boxes(shapes, manifest, "train").mean(axis=0)
    np.testing.assert_allclose(rows.loc["mean box of the training set", "box"], mean, atol=0.0051)
    iou = numpy_iou(mean, boxes)
    assert rows.loc["mean box of the training set", "half"] == (iou >= 0.5).mean() > 0
    assert (iou >= 0.5).mean() != (iou >= 0.75).mean()
    central = numpy_iou(np.array([0.25, 0.25, 0.75, 0.75]), boxes)
    assert rows.loc["central box", "iou"] == pytest.approx(central.mean(), rel=1e-5)
