"""Region and pixel level: FishNet beside other networks, with the same data, epochs and seeds."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils import environment
from utils.data import pipeline
from utils.data.plan import Source
from utils.training.config import RunConfig
from utils.training.results import TITLES, result_path, write_benchmark
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
        options={
            "dataset": "tiny-shapes",
            "epochs": 12,
            "results_dir": "report/results",
            "weights_dir": "report/weights",
        },
    ),
}


def comparison_runs(
    task: str,
    *,
    runs_dir: str | Path = "runs",
    networks: Iterable[str] | None = None,
    seeds: Iterable[int] = SEEDS,
    **options: Any,
) -> dict[tuple[str, int], RunConfig]:
    """All runs of a comparison.

    Args:
        task: in `COMPARISONS`.
        runs_dir: folder of the runs' folders.
        networks: names in tables; None for all.
        seeds: the same for each network.
        **options: fields of `RunConfig` that replace the comparison's own.

    Returns:
        Dict of `RunConfig` by (name in tables, seed).
    """
    comparison = COMPARISONS[task]
    common: dict[str, Any] = {
        "task": task, "kind": "ablation", "recipe": "tuned-v1", "precision": "float32",
        **comparison.options, **options,
    }  # fmt: skip
    return {
        (name, seed): RunConfig(
            preset=preset,
            seed=seed,
            run_dir=f"{runs_dir}/{task}-{preset}-seed{seed}".replace("_", "-"),
            **common,
        ).resolve()
        for name, preset in comparison.networks.items()
        if networks is None or name in networks
        for seed in seeds
    }


def comparison_table(task: str, found: dict[tuple[str, int], dict[str, Any]]) -> pd.DataFrame:
    """Means over the seeds, and differences from the first network.

    Args:
        task: in `COMPARISONS`.
        found: dict of results by (name, seed), the first network's first.

    Returns:
        `pandas.DataFrame`, a row per network: parameters, macs (multiply-accumulates per image), n
        (seeds), and for each metric its mean (a fraction), `<metric> by seed`, its difference from
        the first network for each seed, and `<metric> difference`, the mean of these, both in
        percentage points.
    """
    names = list(dict.fromkeys(name for name, _ in found))
    seeds = list(dict.fromkeys(seed for _, seed in found))
    rows = {name: found[name, seeds[0]]["model"] | {"n": len(seeds)} for name in names}
    for metric in COMPARISONS[task].metrics:
        values = np.array([[found[n, s]["metrics"][metric] for s in seeds] for n in names])
        differences = 100 * (values - values[0])
        for name, value, difference in zip(names, values, differences, strict=True):
            rows[name] |= {
                metric: value.mean(),
                f"{metric} difference": difference.mean(),
                f"{metric} by seed": difference.tolist(),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def with_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What `comparison_table` returns, for people to read.

    Args:
        rows: the table.

    Returns:
        A table with a column per metric, as in "36.8% (+8.8 / +8.7)": the mean and, from
        the second network on, the difference for each seed.
    """
    shown = rows[["parameters", "macs", "n"]].set_axis(["parameters", "MACs", "seeds"], axis=1)
    for metric in (name for name in rows if f"{name} by seed" in rows):
        texts = [f"{mean:.1%}" for mean in rows[metric]]
        for i, by_seed in enumerate(rows[f"{metric} by seed"][1:], 1):
            texts[i] += f" ({' / '.join(f'{apart:+.1f}' for apart in by_seed)})"
        shown[TITLES[metric]] = texts
    return shown


def fixed_box_baselines(data_dir: str | Path, manifest: dict[str, Any]) -> pd.DataFrame:
    """IoU, on the validation set, of predictors that return the same box for every image.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.

    Returns:
        `pandas.DataFrame`, a row for the whole image, for the central box of half its height and
        width, and for the mean box of the training images: box, iou (its mean) and half (the
        fraction of images with an IoU of at least 0.5).
    """
    boxes = pipeline.target_boxes(data_dir, manifest, "train")
    targets = pipeline.target_boxes(data_dir, manifest)
    fixed = {
        "whole image": np.array([0, 0, 1, 1], "float32"),
        "central box": np.array([0.25, 0.25, 0.75, 0.75], "float32"),
        "mean box of the training set": boxes.mean(axis=0),
    }
    rows = {}
    for name, box in fixed.items():
        iou = np.asarray(intersection_over_union(np.broadcast_to(box, targets.shape), targets))
        rows[name] = {"box": box.round(2), "iou": iou.mean(), "half": (iou >= 0.5).mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def background_baseline(data_dir: str | Path, manifest: dict[str, Any]) -> dict[str, float]:
    """Metrics, on the validation set, of a predictor that labels every pixel background.

    Args:
        data_dir: folder with the TFRecord shards.
        manifest: what `utils.data.manifest.load_manifest` returns for it.

    Returns:
        Dict of accuracy, the fraction of background pixels, and iou, its mean over background and
        classes.
    """
    source = Source(data_dir, manifest, task="segmentation")
    masks = np.concatenate([masks for _, masks in pipeline.evaluation_batches(source)])
    background = (masks == 0).mean()
    return {"accuracy": background, "iou": background / len(np.unique(masks))}


def keep_baselines(
    fixed_boxes: pd.DataFrame,
    background: dict[str, float],
    results_dir: str | Path = "report/results",
) -> Path:
    """Writes the results of the predictors that do not look at the image.

    Args:
        fixed_boxes: as `fixed_box_baselines` returns it.
        background: as `background_baseline` returns it.
        results_dir: folder for `trivial-baselines.json`.

    Returns:
        The path of the file.
    """
    path = result_path(results_dir, "trivial-baselines")
    measured = {
        "command": "papermill notebooks/07_region_and_pixel.ipynb "
        "report/executed/07_region_and_pixel.ipynb -p update_tables True",
        "env": environment.describe(),
        "segmentation": background,
        "localization": fixed_boxes.drop(columns="box").to_dict("index"),
    }
    write_benchmark(path, measured)
    return path
