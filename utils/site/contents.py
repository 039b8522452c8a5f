"""What the static page shows, read off results, kept predictions and one kept network."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from utils.analysis.gradients import grad_cam, kept_images, layers_in
from utils.analysis.published import COURSE_EPOCHS, COURSE_REPORT, LITERATURE
from utils.analysis.tables import Results, kept, kept_predictions, summary
from utils.environment import REPOSITORY
from utils.figures.charts import names_of
from utils.figures.style import colors_of, label_of
from utils.files import load_model
from utils.training.recipes import family_of
from utils.training.results import device_name, elapsed, load_results

CURVES = ("loss", "top1", "val_loss", "val_top1", "learning_rate")
STAGES = ("tail_1", "tail_3", "body_3", "head_1")  # as in 04_analysis

Predictions = Mapping[str, Mapping[str, Any]]  # by run, as `load_predictions` returns them


def site_contents() -> dict[str, Any]:
    """All that the page shows, from the project's folder.

    Returns:
        Dict that can be written as JSON. Accuracies are fractions in [0, 1], classes are indices
        into `words`; bytes (predicted classes, JPEGs, Grad-CAM) are base64.

    Raises:
        ValueError: there is no complete run of which all is kept.
    """
    results_dir = Path("report/results")
    results = load_results(results_dir)
    predictions = kept_predictions(results, results_dir)
    shown = [result for result in results if result["run_id"] in predictions]  # all in the table
    weights_dir = Path("report/weights")
    with_weights = kept(shown, weights_dir)
    if not with_weights:
        raise ValueError(
            f"{results_dir} has no complete run with its predictions, and weights in "
            f"{weights_dir}; 03_train makes one."
        )
    palette = colors_of(result["preset"] for result in results)
    colors = {preset: to_hex(color) for preset, color in palette.items()}
    first = predictions[shown[0]["run_id"]]
    best = with_weights[-1]["run_id"]
    model = load_model(weights_dir / f"{best}.keras")
    return {
        "repository": REPOSITORY,
        "runs": [
            {"name": name, **_run(r, colors[r["preset"]], predictions[r["run_id"]])}
            for name, r in zip(names_of(shown), shown, strict=True)
        ],
        "table": _rows(results, colors),
        "words": [str(words) for words in first["words"]],
        "labels": _base64(first["labels"]),
        "images": _images(predictions),
        "elsewhere": _elsewhere(),
        "gradCam": {"run": best, **grad_cam_strip(model, predictions[best])},
        "heat": [to_hex(color) for color in matplotlib.colormaps["inferno"](np.linspace(0, 1, 9))],
    }


def _rows(results: Results, colors: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of the table: seeds taken together, as in the README."""
    renamed = {
        "validation top-1": "top1",
        "validation top-5": "top5",
        "training top-1": "train_top1",
    }
    table = summary(results).rename(columns=renamed | {"MACs": "macs", "s / epoch": "seconds"})
    table["color"] = table["preset"].map(colors)
    table["network"] = [
        ", ".join([label_of(preset), *changes])
        for preset, changes in zip(table.pop("preset"), table.pop("changes"), strict=True)
    ]
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _run(result: dict[str, Any], color: str, predictions: Mapping[str, Any]) -> dict[str, Any]:
    history, epochs = result["history"], len(result["history"]["loss"])
    minutes = [elapsed(result, epoch) / 60 for epoch in range(1, epochs + 1)]
    return {
        "id": result["run_id"],
        "network": label_of(result["preset"]),
        **{name: result[name] for name in ("preset", "recipe", "seed", "command")},
        "color": color,
        "epochs": epochs,
        "parameters": result["model"]["parameters"],
        "macs": result["model"]["macs"],
        "device": device_name(result),
        "train_top1": history["top1"][-1],
        **{name: result["metrics"][name] for name in ("top1", "top5")},
        "family": family_of(result["recipe"]),
        "history": {
            **{name: _rounded(history[name]) for name in CURVES},
            "minutes": _rounded(minutes),
        },
        "predicted": _base64(predictions["classes"][:, 0]),
        "confidence": _base64(np.round(100 * predictions["probabilities"][:, 0].astype(float))),
    }


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    """To four digits; None where there is no number."""
    return [None if pd.isna(value) else float(f"{value:.4g}") for value in values]


def _base64(values: Any) -> str:
    """Numbers from 0 to 255, one byte each."""
    values = np.asarray(values)
    if values.size and values.max() > 255:
        raise ValueError(f"A number must fit into a byte. Received: {values.max()}")
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()


def _images(predictions: Predictions) -> list[dict[str, Any]]:
    """The validation images that are kept with any run, by their index."""
    kept: dict[int, bytes] = {}
    for found in predictions.values():
        kept.update(zip(found["sample"].tolist(), found["jpeg"], strict=True))
    return [
        {"index": index, "jpeg": base64.b64encode(jpeg).decode()}
        for index, jpeg in sorted(kept.items())
    ]


def _elsewhere() -> list[dict[str, Any]]:
    """Networks of others; what is not known of one is None."""
    course = [
        {
            "source": "course report",
            "name": {"resnet_report": "ResNet"}.get(row.Index, row.Index),
            "parameters": row.parameters,
            "seconds": row.seconds_per_epoch if row.seconds_per_epoch > 0 else None,
            "epochs": COURSE_EPOCHS,
            "train_top1": row.train_top1,
            "top1": row.val_top1,
        }
        for row in COURSE_REPORT.itertuples()
    ]
    published = [
        {"source": "published", "name": row.name, "parameters": row.parameters, "top1": row.top1}
        for row in LITERATURE.itertuples(index=False)
    ]
    return [*course, *published]


def grad_cam_strip(
    model: keras.Model, predictions: Mapping[str, Any], count: int = 8
) -> dict[str, Any]:
    """Grad-CAM of the first kept images.

    Args:
        model: the network.
        predictions: its, as `utils.training.predictions.load_predictions` returns them.
        count: how many images.

    Returns:
        Dict: images, their indices; right, whether the network is; maps, by stage `side`, the
        rows of a map, and `values`, those of all images, 0 to 255.
    """
    images, labels = kept_images(predictions)
    samples = predictions["sample"][: len(labels)]
    right = predictions["classes"][samples, 0] == labels
    maps = grad_cam(model, images[:count], labels[:count].tolist(), layers_in(model, STAGES))
    return {
        "images": samples[:count].tolist(),
        "right": right[:count].tolist(),
        "maps": {
            stage: {"side": values.shape[1], "values": _base64(np.round(255 * values))}
            for stage, values in maps.items()
        },
    }
