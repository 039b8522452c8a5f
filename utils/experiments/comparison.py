"""Region and pixel level: FishNet beside other networks, with the same data, epochs and seeds."""

import dataclasses

import numpy as np
import pandas as pd

from utils.data import pipeline
from utils.training.config import RunConfig
from utils.training.tasks import intersection_over_union

SEEDS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared at one task."""

    networks: dict  # name in tables: preset; the first is what the others are compared with
    metrics: tuple  # names in a result
    options: dict  # fields of `RunConfig` that all runs share


COMPARISONS = {
    "localization": Comparison(
        networks={
            "FishNet": "simple",
            "its tail alone": "simple_tail",
            "residual network": "residual",
        },
        metrics=("top1", "iou", "localized"),
        options={"epochs": 5},
    ),
    # The masks of tiny-shapes are exact. All of it is synthetic, and its results say so.
    "segmentation": Comparison(
        networks={"FishNet": "simple", "its tail alone": "simple_tail", "U-Net": "unet"},
        metrics=("iou", "accuracy"),
        options={"dataset": "tiny-shapes", "epochs": 12, "results_dir": "report/results"},
    ),
}


def runs(task, *, runs_dir="runs", networks=None, seeds=SEEDS, **options):
    """All runs of a comparison.

    Args:
        task: in `COMPARISONS`.
        runs_dir: folder of the runs' folders.
        networks: names in tables; None for all.
        seeds: the same for each network.
        **options: fields of `RunConfig` to set otherwise.

    Returns:
        Dict of `RunConfig` by (name in tables, seed).
    """
    comparison = COMPARISONS[task]
    common = {"task": task, "kind": "ablation", **comparison.options, **options}
    return {
        (name, seed): RunConfig(
            preset=preset,
            seed=seed,
            run_dir=f"{runs_dir}/{task}-{preset}-seed{seed}".replace("_", "-"),
            **common,
        )
        for name, preset in comparison.networks.items()
        if networks is None or name in networks
        for seed in seeds
    }


def table(task, found):
    """Means over the seeds, and how sure the distances from the first network are.

    Args:
        task: in `COMPARISONS`.
        found: dict of results by (name, seed), the first network's first.

    Returns:
        `pandas.DataFrame`, a row a network: parameters, macs (multiply-accumulates an image), and
        for each metric its mean (a fraction), `<metric> apart`, its mean distance from the first
        network, and `<metric> error`, the standard error of that over pairs of the same seed, both
        in percentage points.
    """
    names = list(dict.fromkeys(name for name, _ in found))
    seeds = list(dict.fromkeys(seed for _, seed in found))
    rows = {name: dict(found[name, seeds[0]]["model"]) for name in names}
    for metric in COMPARISONS[task].metrics:
        values = np.array([[found[n, s]["metrics"][metric] for s in seeds] for n in names])
        apart = 100 * (values - values[0])
        for name, value, points in zip(names, values, apart, strict=True):
            rows[name] |= {
                metric: value.mean(),
                f"{metric} apart": points.mean(),
                f"{metric} error": pd.Series(points).sem(),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def styled(rows):
    """A table of `table`, to be shown in a notebook."""
    formats = {
        name: "{:+.1f}"
        if name.endswith("apart")
        else "{:.1f}"
        if name.endswith("error")
        else "{:.1%}"
        for name in rows.columns[2:]
    }
    return rows.style.format({"parameters": "{:,}", "macs": "{:,}", **formats}, na_rep="–")


def trivial_boxes(data_dir, manifest, split="val"):
    """IoU of boxes that are the same for every image: what must be beaten.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: "val" or "holdout".

    Returns:
        `pandas.DataFrame`, a row for the whole image, for the central box of half its height and
        width, and for the mean of train's boxes: box, iou and share of images with an IoU of 0.5 or
        more.
    """
    boxes = pipeline.target_boxes(data_dir, manifest, "train")
    shown = pipeline.target_boxes(data_dir, manifest, split)
    guesses = {
        "whole image": np.float32([0, 0, 1, 1]),
        "central box": np.float32([0.25, 0.25, 0.75, 0.75]),
        "mean box of train": boxes.mean(axis=0),
    }
    rows = {}
    for name, box in guesses.items():
        iou = np.asarray(intersection_over_union(np.broadcast_to(box, shown.shape), shown))
        rows[name] = {"box": box.round(2), "iou": iou.mean(), "half": (iou >= 0.5).mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def majority_class(data_dir, manifest, split="val"):
    """What calling every pixel background comes to: what must be beaten.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.
        split: "val" or "holdout".

    Returns:
        Dict of accuracy, the share of background pixels, and iou, its mean over background and
        classes.
    """
    batches = pipeline.evaluation_batches(
        data_dir, manifest, batch_size=256, split=split, task="segmentation"
    )
    masks = np.concatenate([masks for _, masks in batches.as_numpy_iterator()])
    background = (masks == 0).mean()
    return {"accuracy": background, "iou": background / len(np.unique(masks))}
