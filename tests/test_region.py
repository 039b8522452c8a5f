import numpy as np
import pytest

from utils import region
from utils.tiny_imagenet import load_manifest


def test_networks_are_compared_in_pairs():
    runs = region.runs()
    assert [*runs][:2] == [("FishNet", 0), ("FishNet", 1)]
    assert len({run.run_id for run in runs.values()}) == 6
    (settings,) = {
        (run.task, run.epochs, run.fraction, run.recipe, run.split) for run in runs.values()
    }
    assert settings == ("localization", 5, 1.0, "tuned", "val")


def test_differences_are_those_of_pairs():
    def result(top1, parameters):
        metrics = dict.fromkeys(region.METRICS, 0.5) | {"top1": top1}
        return {"metrics": metrics, "model": {"parameters": parameters}}

    found = {("FishNet", 0): result(0.40, 7), ("FishNet", 1): result(0.50, 7)}
    found |= {("tail", 0): result(0.30, 5), ("tail", 1): result(0.46, 5)}
    rows = region.table(found)
    tail = rows.loc["tail"]
    assert (tail["parameters"], tail["top1"]) == (5, pytest.approx(0.38))
    assert tail["top1 - FishNet"] == pytest.approx(-7)  # -10 and -4
    assert tail["top1 error"] == pytest.approx(3)
    assert rows.loc["FishNet", ["top1 - FishNet", "top1 error"]].tolist() == [0, 0]
    assert tail["iou - FishNet"] == 0


def test_trivial_boxes(shapes):
    rows = region.trivial_boxes(shapes, load_manifest(shapes))
    boxes = region.pipeline.target_boxes(shapes, load_manifest(shapes))
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert rows.loc["whole image", "iou"] == pytest.approx((width * height).mean(), rel=1e-5)
    mean = region.pipeline.target_boxes(shapes, load_manifest(shapes), "train").mean(axis=0)
    np.testing.assert_allclose(rows.loc["mean box of train", "box"], mean, atol=0.0051)
    assert rows["iou"].between(0, 1).all()
    assert rows["half"].between(0, 1).all()
