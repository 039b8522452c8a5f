"""The tables of the README and of the model card, and how they get there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from utils.analysis.predictions import calibration, expected_calibration_error, first_epoch_above
from utils.analysis.published import REPORT
from utils.training.predictions import load_predictions


def markdown_results(results):
    """The results as a Markdown table, for the README.

    Args:
        results: as `utils.training.results.load_results` returns them.

    Returns:
        The lines of the table.
    """
    lines = [
        "| run | parameters | epochs | s / epoch | device | train top-1 | val top-1 | val top-5 "
        "| report: train | report: val |",
        "|---" * 10 + "|",
    ]
    for row in results_table(results).to_dict("records"):
        lines.append(
            f"| {row['run']} | {row['parameters']:,} | {row['epochs']} | {row['s / epoch']:.0f} "
            f"| {row['device']} | {row['train top-1']:.1%} | **{row['val top-1']:.1%}** "
            f"| {row['val top-5']:.1%} | {row['report: train top-1']:.1%} "
            f"| {row['report: val top-1']:.1%} |"
        )
    return "\n".join(lines)


def markdown_times(results):
    """When each run passes the report's best networks, as a Markdown table.

    Args:
        results: as `utils.training.results.load_results` returns them.

    Returns:
        The lines of the table.
    """
    lines = [
        "| run | passes its best FishNet, 18.8% | passes its ResNet, 20.2% |",
        "|---" * 3 + "|",
    ]
    levels = REPORT.loc[["complex", "resnet_report"], "val_top1"]
    for result in results:
        passed = (first_epoch_above(result["history"], level) for level in levels)
        lines.append(f"| {result['run_id']} | " + " | ".join(passed) + " |")
    return "\n".join(lines)


def markdown_metrics(results, results_dir, weights_dir="report/weights"):
    """What the model card says of each kept network, as a Markdown table.

    Args:
        results: as `utils.training.results.load_results` returns them.
        results_dir: folder of their predictions.
        weights_dir: folder of the kept weights.

    Returns:
        The lines of the table.
    """
    lines = [
        "| weights | parameters | top-1 | top-5 | cross-entropy | calibration error |",
        "|---" * 6 + "|",
    ]
    for result in results:
        run_id, metrics = result["run_id"], result["metrics"]
        if (Path(weights_dir) / f"{run_id}.keras").exists():
            predictions = load_predictions(Path(results_dir) / f"{run_id}.npz")
            error = expected_calibration_error(calibration(predictions))
            lines.append(
                f"| `{run_id}.keras` | {result['model']['parameters']:,} | {metrics['top1']:.1%} "
                f"| {metrics['top5']:.1%} | {metrics['loss']:.3f} | {error:.1%} |"
            )
    return "\n".join(lines)


def markdown_commands(results):
    """The command of each run as a Markdown code block."""
    return "\n".join(["```", *(result["command"] for result in results), "```"])


def fill_in(text, section, content):
    """Puts content between the marks `<!-- section: … -->` and `<!-- end of section -->`.

    Args:
        text: a Markdown text.
        section: name in the marks.
        content: what shall stand between them.

    Returns:
        The new text.

    Raises:
        ValueError: the marks are not there.
    """
    marks = re.compile(rf"(<!-- {section}:[^>]*-->\n).*?(<!-- end of {section} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"The marks of section {section!r} are missing.")
    return marks.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def results_table(results):
    """The results table, our runs beside the report's rows.

    Args:
        results: as `load_results` returns them.

    Returns:
        `pandas.DataFrame`, a row a run: parameters, MACs, epochs, seconds an epoch, device,
        training and val accuracies as fractions, val top-1 with mirror images and of averaged
        weights in columns of their own, and the report's numbers of the same network.
    """
    rows = []
    for result in results:
        history, report = result["history"], REPORT.reindex([result["preset"]]).iloc[0]
        rows.append(
            {
                "run": result["run_id"],
                "preset": result["preset"],
                "recipe": result["recipe"],
                "parameters": result["model"]["parameters"],
                "MACs": result["model"]["macs"],
                "epochs": len(history["loss"]),
                "s / epoch": float(np.median(history["seconds"])),
                "device": result["env"]["device"],
                "train top-1": history["top1"][-1],
                "val top-1": result["metrics"]["top1"],
                "val top-5": result["metrics"]["top5"],
                "val top-1, mirrored too": result.get("metrics_flip", {}).get("top1"),
                "val top-1, averaged weights": result.get("metrics_ema", {}).get("top1"),
                "report: parameters": report["parameters"],
                "report: s / epoch": report["seconds_per_epoch"],
                "report: train top-1": report["train_top1"],
                "report: val top-1": report["val_top1"],
            }
        )
    return pd.DataFrame(rows)
