"""Region level: FishNet finds a box beside the class, and what it is compared with does too."""

import numpy as np
import pandas as pd

from utils import pipeline, results
from utils.run_config import RunConfig
from utils.tasks import intersection_over_union

# What is compared: name in tables, preset. Same data, epochs and recipe; seeds in pairs.
NETWORKS = {
    "FishNet": "simple",
    "its tail alone": "simple_tail",
    "residual network": "residual",
}
SEEDS = (0, 1)
EPOCHS = 5
METRICS = ("top1", "iou", "localized")


def runs(**options):
    """All runs of the comparison.

    Args:
        **options: fields of `RunConfig` to set otherwise.

    Returns:
        Dict of `RunConfig` by (name in tables, seed).
    """
    common = {"task": "localization", "epochs": EPOCHS, **options}
    return {
        (name, seed): RunConfig(preset=preset, seed=seed, **common)
        for name, preset in NETWORKS.items()
        for seed in SEEDS
    }


def table(found):
    """Means over the seeds, and how sure the distances from FishNet are.

    Args:
        found: dict of results by (name, seed); FishNet's among them.

    Returns:
        `pandas.DataFrame`, a row a network: parameters, and for each metric its mean (a fraction),
        and `metric - FishNet` with its standard error over pairs of the same seed, both in
        percentage points; of FishNet itself these are zero.
    """
    names = list(dict.fromkeys(name for name, _ in found))
    seeds = list(dict.fromkeys(seed for _, seed in found))
    rows = {}
    for name in names:
        rows[name] = {"parameters": found[name, seeds[0]]["model"]["parameters"]}
        for metric in METRICS:
            values, fish = (
                100 * np.array([found[which, seed]["metrics"][metric] for seed in seeds])
                for which in (name, names[0])
            )
            apart = values - fish
            error = apart.std(ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else float("nan")
            rows[name] |= {
                metric: values.mean() / 100,
                f"{metric} - FishNet": apart.mean(),
                f"{metric} error": error,
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def trivial_boxes(data_dir, manifest, split="val"):
    """IoU of boxes that are the same for every image: what must be beaten.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.tiny_imagenet.load_manifest` returns for it.
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


def read_results(configs):
    """The complete results of runs.

    Args:
        configs: as `runs` returns them.

    Returns:
        Dict of results by the same keys.
    """
    return {
        key: results.read_result(results.result_path(config.results_dir, config.run_id))
        for key, config in configs.items()
    }
