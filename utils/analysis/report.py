"""Typesets the report from the result JSONs and the figures: `python -m utils.analysis.report`."""

import argparse
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import typst

from utils.analysis import published
from utils.analysis.predictions import (
    calibration,
    expected_calibration_error,
    per_class_accuracy,
)
from utils.analysis.tables import changes_of, kept_predictions, summary
from utils.experiments.ablations import ablation_table, recipe_table
from utils.experiments.comparison import COMPARISONS, comparison_runs, comparison_table
from utils.experiments.layers_in_call.symptoms import symptoms, verdicts
from utils.experiments.search import points, study_table
from utils.models.presets import PRESETS, TITLES
from utils.training.recipes import RECIPES
from utils.training.results import (
    complete_result,
    legs_of,
    load_results,
    read_results,
    training_env,
)

STUDIES = ("down_sampling", "activation", "dropout", "optimizer", "size")  # that it cites
LIBRARIES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
GROUPS = {  # of the runs in the appendix: how their names begin, and what they are for
    "why": "One factor at a time",
    "layers-in-call": "Layers created in call",
    "search": "Search",
    "recipe": "Trials of a recipe",
    "third": "Fast layers and bfloat16",
    "gradients": "Gradient norms",
    "cost": "Cost of an epoch",
    "resnet-report": "The course report's ResNet",
    "localization": "Region level",
    "segmentation": "Pixel level (synthetic)",
}


def build_report(root: str | Path = ".", **options: Any) -> Any:
    """Typesets `report/report.typ`.

    Args:
        root: the project's folder, with `report/` and `figures/`.
        **options: of `typst.compile`, above all `output`; without it the PDF is returned.

    Returns:
        What `typst.compile` returns.

    Raises:
        FileNotFoundError: a run of the comparisons in `utils.experiments.ablations` is missing.
        ValueError: one is not complete, or a study of `utils.experiments.search` or a comparison of
            `utils.experiments.comparison` is not.
        typst.TypstError: another result that the report cites is missing, synthetic or not
            complete, or a figure is missing.
    """
    root = Path(root)
    inputs = {
        **measured(root / "report/results"),
        "published": {
            "course": published.COURSE_REPORT.to_dict("index"),
            "imagenet": published.IMAGENET.to_dict("records"),
            "fishnet150_long": published.FISHNET_150_LONG,
            "down_sampling": published.PAPER_DOWN_SAMPLING.reset_index().to_dict("records"),
            "grouped": published.PAPER_GROUPED.to_dict("records"),
            "literature": published.LITERATURE.to_dict("records"),
        },
        "titles": TITLES,
        "recipes": {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()},
        "presets": {
            name: dataclasses.asdict(PRESETS[name]) for name in ("simple", "medium", "complex")
        },
    }
    return typst.compile(
        root / "report/report.typ",
        root=root,
        sys_inputs={name: _json(value) for name, value in inputs.items()},
        ignore_system_fonts=True,
        timestamp=0,  # with the same fonts and time the same sources give the same bytes
        **options,
    )


def measured(results_dir: Path) -> dict[str, Any]:
    """What the report computes from the results, by the names that its source reads.

    Args:
        results_dir: folder of the results.

    Returns:
        Dict of JSON-ready values: `runs` (ids of those that may stand in the results table),
        `summary`, `factors`, `trials`, `studies`, `compared`, `symptoms`, `spread`, `calibration`,
        `classes` and `results` (a row of the appendix for each complete JSON).

    Raises:
        FileNotFoundError, ValueError: see `build_report`.
    """
    reported = load_results(results_dir)
    everything = [r for r in read_results(results_dir) if r["status"] == "complete"]
    predictions = kept_predictions(reported, results_dir)
    return {
        "runs": [result["run_id"] for result in reported],
        "summary": summary(reported).to_dict("records"),
        "factors": ablation_table(results_dir).to_dict("records"),
        "trials": recipe_table(results_dir).to_dict("records"),
        "studies": {name: _study(name, results_dir) for name in STUDIES},
        "compared": {task: _compared(task, results_dir) for task in COMPARISONS},
        "symptoms": _symptoms(results_dir),
        "spread": spread_between_seeds(everything),
        "calibration": {
            run: expected_calibration_error(calibration(found))
            for run, found in predictions.items()
        },
        "classes": {
            run: per_class_accuracy(found).reset_index().values.tolist()
            for run, found in predictions.items()
        },
        "results": [_row(result) for result in everything],
    }


def spread_between_seeds(results: list[dict[str, Any]]) -> dict[str, float]:
    """How far apart runs are that differ in their seed alone, on the hold-out.

    Args:
        results: as `utils.training.results.read_result` returns them.

    Returns:
        Dict of pairs (how many groups of such runs there are) and largest (difference of top-1 in
        one of them, as a fraction). Runs that only guess, whose seeds cannot differ, are left out.
    """
    rows = pd.DataFrame(
        [
            {"name": re.sub(r"-seed\d+$", "", r["run_id"]), "top1": r["metrics"]["top1"]}
            for r in results
            if r.get("metrics", {}).get("split") == "holdout"
            and not r["run_id"].startswith("layers-in-call")
            and not math.isclose(r["metrics"]["top1"], 1 / 200, rel_tol=1e-6)
        ]
    )
    grouped = rows.groupby("name")["top1"]
    ranges = (grouped.max() - grouped.min())[grouped.size() > 1]
    return {"pairs": len(ranges), "largest": float(ranges.max())}


def _study(name: str, results_dir: Path) -> list[dict[str, Any]]:
    rows = study_table(name, results_dir=str(results_dir))
    if len(rows) < len(points(name)):
        raise ValueError(f"Study {name} is not complete; run notebooks/06_search.ipynb first.")
    return rows.to_dict("records")


def _compared(task: str, results_dir: Path) -> list[dict[str, Any]]:
    runs = comparison_runs(task, results_dir=str(results_dir))
    results = {key: complete_result(config) for key, config in runs.items()}
    found = {key: result for key, result in results.items() if result is not None}
    if len(found) < len(runs):
        raise ValueError(
            f"Comparison {task} is not complete; run notebooks/07_region_and_pixel.ipynb first."
        )
    rows = comparison_table(task, found)
    return rows.rename_axis("network").reset_index().to_dict("records")


def _symptoms(results_dir: Path) -> list[dict[str, Any]]:
    rows = symptoms(results_dir)
    return [{**row, "verdicts": verdicts(row)} for _, row in rows.iterrows()]


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """A result in the appendix."""
    metrics, run, env = result.get("metrics") or {}, result["run_id"], training_env(result)
    commits = [leg.get("env", {}).get("git_commit") or "" for leg in legs_of(result)]
    library = env.get("backend", "tensorflow")
    history = next(iter((result.get("history") or {"": []}).values()))
    group = next((title for start, title in GROUPS.items() if run.startswith(f"{start}-")), "")
    is_main = result["kind"] == "train"
    return {
        "run": run,
        "group": "Main results" if is_main else group or "Measurements",
        "changes": changes_of(result) if "preset" in result else (),
        "recipe": result.get("recipe"),
        "kind": result["kind"],
        "seed": result.get("seed"),
        "epochs": len(history),
        "split": metrics.get("split"),
        "metric": next((name for name in ("top1", "iou") if name in metrics), None),
        "value": metrics.get("top1", metrics.get("iou")),
        "command": result["command"],
        "environment": {
            **{name: env.get(name) for name in ("python", "keras", "device", "cpu_count")},
            "library": f"{LIBRARIES[library]} {env.get(library)}",
        },
        "commit": (env.get("git_commit") or "").removesuffix("-dirty")[:7],
        "is_dirty": any(commit.endswith("-dirty") for commit in commits),
    }


def _json(value: Any) -> str:
    """JSON in which what is not a number is null."""
    return re.sub(r"\bNaN\b", "null", json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return value.item()


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m utils.analysis.report", description=__doc__
    ).parse_args()
    build_report(output="report/report.pdf")
    print("report/report.pdf")
