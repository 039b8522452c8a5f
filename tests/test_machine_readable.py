"""What other programs read of the results: the CSV of all runs, the metadata of the model card."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def test_the_csv_has_each_training_and_no_benchmark():
    results = (json.loads(p.read_text()) for p in Path("report/results").glob("*.json"))
    found = {r["run_id"]: r for r in results if r["status"] != "running"}
    table = pd.read_csv("report/results.csv", index_col="run_id")
    assert set(table.index) == {n for n, r in found.items() if r["kind"] != "benchmark"}
    assert {"split", "seconds", "device", "precision", "commit"} < set(table)
    for name, row in table.iterrows():
        result = found[name]
        assert row["top1"] == pytest.approx(result["metrics"].get("top1", np.nan), nan_ok=True)
        assert row["parameters"] == result["model"]["parameters"]
        assert (row["split"], row["seed"]) == (result["dataset"]["split"], result["seed"])
    documented = Path("docs/results.md").read_text()
    assert [c for c in ("run_id", *table) if f"`{c}`" not in documented] == []


def test_the_metadata_of_the_model_card_are_as_the_hub_reads_them():
    hub = pytest.importorskip("huggingface_hub")
    path = Path("report/weights/README.md")
    data = hub.ModelCard.load(path).data
    assert (data.library_name, data.pipeline_tag) == ("keras", "image-classification")
    assert (data.license, data.license_name) == ("other", "imagenet-terms-of-access")
    read = [(r.metric_name, r.metric_value, r.dataset_split) for r in data.eval_results]
    runs = [m["name"] for m in hub.metadata_load(path)["model-index"]]
    assert set(runs) < {file.stem for file in path.parent.glob("*.keras")}
    expected = []
    for run in runs:
        metrics = json.loads(Path(f"report/results/{run}.json").read_text())["metrics"]
        expected += [("Top-1 accuracy", round(metrics["top1"], 4), "validation")]
        expected += [("Top-5 accuracy", round(metrics["top5"], 4), "validation")]
    assert read == expected
    assert len(read) > 6
