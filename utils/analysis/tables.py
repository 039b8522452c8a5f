"""The tables in README, docs and model card: `python -m utils.analysis.tables` writes them."""

import argparse
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.analysis.machine_readable import card_metadata, results_csv
from utils.analysis.predictions import calibration, expected_calibration_error
from utils.analysis.published import COURSE_EPOCHS, COURSE_REPORT
from utils.files import replacing
from utils.models.presets import ACTIVATIONS, TITLES
from utils.training.config import NETWORK_CHANGES, RECIPE_CHANGES, USUAL
from utils.training.predictions import load_predictions
from utils.training.recipes import RECIPES
from utils.training.results import (
    device_name,
    elapsed,
    load_results,
    read_result,
    result_path,
    training_env,
)

# What a run may change of its network or recipe; and how it is said, where not by field and value.
CHANGES = (
    "stem", *NETWORK_CHANGES, "batch_norm_momentum", "initial_weights", *RECIPE_CHANGES,
    "batch_size", "record_order", "fast_layers", "eager",
)  # fmt: skip
WORDS: dict[tuple[str, object], str] = {
    ("stem", "half"): "stem of stride 2",
    ("stem", "full"): "stem of stride 1",
    **{("activation", name): word for name, word in ACTIVATIONS.items()},
    ("zero_init", True): "zero init",
    ("logits_bn", True): "BatchNorm on logits",
}
TECHNIQUES = {
    "image_sizes": "progressive resizing",
    "crop_area": "resized crops",
    "cutmix": "CutMix",
}
FIELDS = {
    "batch_norm_momentum": "BatchNorm momentum",
    "l2": "L2",
    "label_smoothing": "label smoothing",
    "ema": "EMA",
    "batch_size": "batches of",
}
Results = Sequence[dict[str, Any]]  # as `utils.training.results.load_results` returns them


def results_table(results: Results) -> pd.DataFrame:
    """The results of all runs.

    Args:
        results: as `utils.training.results.load_results` returns them.

    Returns:
        `pandas.DataFrame`, a row per run: run, preset, recipe, parameters, MACs, epochs, seconds
        per epoch (see `utils.training.results.elapsed`), device, and accuracies as fractions:
        training top-1 (the mean over the last epoch), clean training top-1 (evaluated at its end,
        where a run has it), validation top-1 and top-5.
    """
    rows = []
    for result in results:
        history, epochs = result["history"], len(result["history"]["loss"])
        rows.append(
            {
                "run": result["run_id"],
                "preset": result["preset"],
                "recipe": result["recipe"],
                "parameters": result["model"]["parameters"],
                "MACs": result["model"]["macs"],
                "epochs": epochs,
                "s / epoch": elapsed(result) / epochs,
                "device": device_name(result),
                "training top-1": history["top1"][-1],
                "clean training top-1": result.get("metrics_train", {}).get("top1", np.nan),
                "validation top-1": result["metrics"]["top1"],
                "validation top-5": result["metrics"]["top5"],
            }
        )
    return pd.DataFrame(rows)


def changes_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run changes of its preset and its recipe, in words: ("SiLU",)."""
    words = []
    for name in CHANGES:
        value = result["config"].get(name)
        if value in (None, USUAL[name], getattr(RECIPES[result["recipe"]], name, None)):
            continue
        if name in TECHNIQUES:
            words.append(TECHNIQUES[name])
        else:
            number = f"{value:.4g}" if isinstance(value, float) else value
            said = f"{FIELDS.get(name, name.replace('_', ' '))} {number}"
            words.append(WORDS.get((name, value), said))
    return tuple(words)


def network_of(result: Mapping[str, Any]) -> str:
    """The preset of a run and what it changes, in words: "simple, SiLU"."""
    return ", ".join([TITLES.get(result["preset"], result["preset"]), *changes_of(result)])


def summary(results: Results) -> pd.DataFrame:
    """The results with the seeds of a run taken together, for comparisons at equal epochs.

    Args:
        results: as `utils.training.results.load_results` returns them.

    Returns:
        `pandas.DataFrame`, a row per network, recipe, number of epochs and precision; the recipe
        `course` last, of the others those of most epochs and then the most accurate first: recipe,
        epochs, network (the next two as one text), preset, changes (as `changes_of` returns
        them), precision, n (seeds), parameters, MACs,
        s / epoch (of the fastest run), avx2 (whether that was measured on a machine without
        AVX-512), device, clean (whether the next column is evaluated, or is
        the mean of the last epoch for lack of that), training top-1,
        validation top-1 and validation top-5 (means over the seeds, as fractions), error (of
        validation top-1: the binomial standard error of its images or, where larger, the standard
        deviation over the seeds), deviation (that over the seeds), short (whether it has fewer
        epochs than the course report's networks, and its preset is there with as many).
    """
    table = results_table(results)
    table["images"] = [result["dataset"]["counts"]["validation"] for result in results]
    table["clean"] = table["clean training top-1"].notna()
    table["training top-1"] = table["clean training top-1"].fillna(table["training top-1"])
    table["network"] = [network_of(result) for result in results]
    table["changes"] = [changes_of(result) for result in results]
    table["precision"] = [training_env(result).get("precision") for result in results]
    measured = [result.get("epoch_env", {}).get("instructions") for result in results]
    table["avx2"] = [bool(found) and "avx512f" not in found for found in measured]
    same = ["recipe", "epochs", "network", "precision"]
    rows = table.groupby(same, as_index=False, dropna=False).agg(
        {
            **dict.fromkeys(["preset", "changes", "parameters", "MACs", "device"], "first"),
            **{"s / epoch": "min", "clean": "all", "images": "first", "run": "count"},
            **dict.fromkeys(["training top-1", "validation top-1", "validation top-5"], "mean"),
        }
    )
    rows["deviation"] = table.groupby(same, dropna=False)["validation top-1"].std().to_numpy()
    fastest_first = table.sort_values("s / epoch").groupby(same, dropna=False)
    rows["avx2"] = fastest_first["avx2"].first().to_numpy()
    binomial = (
        rows["validation top-1"] * (1 - rows["validation top-1"]) / rows.pop("images")
    ) ** 0.5
    rows["error"] = np.fmax(rows["deviation"], binomial)  # of a single run there is no deviation
    full = rows["epochs"] >= COURSE_EPOCHS
    rows["short"] = ~full & rows["preset"].isin(rows["preset"][full])
    rows = rows.rename(columns={"run": "n"}).sort_values(
        ["recipe", "epochs", "validation top-1"],
        key=lambda column: column == "course" if column.name == "recipe" else -column,
    )
    return rows.reset_index(drop=True)


def markdown_results(results: Results, *, short: bool = False) -> str:
    """The results as Markdown tables, one for each recipe, for the README.

    Args:
        results: as `utils.training.results.load_results` returns them.
        short: which rows of the `summary`.

    Returns:
        The lines: for each recipe its name and a table; the course report's own rows below those
        of its recipe, unless the rows are the short ones.
    """
    header = (
        "epochs", "network", "parameters", "million MACs", "s / epoch", "training top-1",
        "validation top-1", "validation top-5",
    )  # fmt: skip
    theirs = [
        (COURSE_EPOCHS, f"*the course report's {row.Index}*".replace("resnet_report", "ResNet"))
        + (f"{row.parameters:,}", "–", _seconds(row.seconds_per_epoch))
        + (_percent(row.train_top1), _percent(row.val_top1), "–")
        for row in COURSE_REPORT.itertuples()
    ]
    blocks = []
    table = summary(results)
    for recipe, rows in table[table["short"] == short].groupby("recipe", sort=False):
        ours = [
            (
                row["epochs"],
                row["network"] + (f" ({row['n']} seeds)" if row["n"] > 1 else ""),
                f"{row['parameters']:,}",
                f"{row['MACs'] / 1e6:.0f}",
                _seconds(row["s / epoch"]) + (" §" if row["avx2"] else ""),
                _percent(row["training top-1"]) + ("" if row["clean"] else " †"),
                f"**{100 * row['validation top-1']:.1f}\u00a0±\u00a0{100 * row['error']:.1f}%**",
                _percent(row["validation top-5"]),
            )
            for row in rows.to_dict("records")
        ]
        blocks += [
            f"Recipe `{recipe}`:",
            "",
            _markdown(header, ours + theirs * (recipe == "course" and not short)),
            "",
        ]
    return "\n".join(blocks[:-1])


def markdown_times(results: Results) -> str:
    """When each run passes the course report's best networks and 40 %, as a Markdown table.

    Args:
        results: as `utils.training.results.load_results` returns them.

    Returns:
        The lines of the table.
    """
    fishnet, resnet = COURSE_REPORT.loc[["complex", "resnet_report"], "val_top1"]
    levels = (
        f"the course report's best FishNet, {fishnet:.1%}",
        f"the course report's ResNet, {resnet:.1%}",
        "40%",
    )
    return _markdown(
        ("network", "recipe", "epochs", *levels),
        (
            (
                network_of(result) + (f" (seed {result['seed']})" if result["seed"] else ""),
                result["recipe"].replace("-", "\u2011"),  # in one line, too
                len(result["history"]["loss"]),
                *(
                    first_epoch_above(result, level).replace(" ", "\u00a0")  # in one line
                    for level in (fishnet, resnet, 0.4)
                ),
            )
            for result in results
        ),
    )


def first_epoch_above(result: dict[str, Any], level: float) -> str:
    """When the top-1 on the validation set first exceeds a level.

    Args:
        result: of a training.
        level: a fraction.

    Returns:
        "epoch 3, 5 min", "epoch 3" where devices changed, or "–" when it never is.
    """
    for epoch, top1 in enumerate(result["history"]["val_top1"], start=1):
        if top1 is not None and top1 > level:
            minutes = elapsed(result, epoch) / 60
            return f"epoch {epoch}" + ("" if math.isnan(minutes) else f", {minutes:.0f} min")
    return "–"


def markdown_metrics(
    results: Results, results_dir: str | Path, weights_dir: str | Path = "report/weights"
) -> str:
    """The metrics of each kept network as a Markdown table, for the model card.

    Args:
        results: as `utils.training.results.load_results` returns them.
        results_dir: folder of their predictions.
        weights_dir: folder of the kept weights.

    Returns:
        The lines of the table.
    """
    rows = []
    for result in kept(results, weights_dir):
        run_id, metrics = result["run_id"], result["metrics"]
        predictions = load_predictions(Path(results_dir) / f"{run_id}.npz")
        error = expected_calibration_error(calibration(predictions))
        rows.append(
            (
                f"`{run_id}.keras`",
                f"{result['model']['parameters']:,}",
                _percent(metrics["top1"]),
                _percent(metrics["top5"]),
                f"{metrics['loss']:.3f}",
                _percent(error),
            )
        )
    header = ("weights", "parameters", "top-1", "top-5", "cross-entropy", "calibration error")
    return _markdown(header, rows)


def kept(results: Results, folder: str | Path, ending: str = ".keras") -> list[dict[str, Any]]:
    """The results of the runs whose weights, or with `.npz` predictions, are in a folder."""
    return [r for r in results if Path(folder, r["run_id"] + ending).exists()]


def kept_predictions(results: Results, results_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The predictions of the runs that have any in a folder, by their names."""
    names = [result["run_id"] for result in kept(results, results_dir, ".npz")]
    return {name: load_predictions(Path(results_dir, f"{name}.npz")) for name in names}


def markdown_exports(result: dict[str, Any]) -> str:
    """How close exported networks are to Keras as a Markdown table, for docs/library.md.

    Args:
        result: of `utils.export.parity`.

    Returns:
        The lines of the table.
    """
    header = (
        "network", "format", "MB", "images", "predictions that differ",
        "logits differ by at most", "top-1 of all images",
    )  # fmt: skip
    rows = []
    for run, forms in result["exports"].items():
        keras = forms["keras"]
        rows.append((f"`{run}`", "Keras", *"––––", f"{keras['top1']:.2%}"))
        for form, row in forms.items():
            if form != "keras":
                whole = row["images"] == keras["images"]
                rows.append(
                    (
                        "",
                        f"`{form}`",
                        f"{row['bytes'] / 1e6:.1f}",
                        f"{row['images']:,}",
                        f"{row['differing']:,}",
                        f"{row['largest_difference']:.1g}",
                        f"{row['top1']:.2%}" if whole else "–",
                    )
                )
    return _markdown(header, rows)


def markdown_commands(results: Results) -> str:
    """The command of each run as a Markdown code block."""
    return "\n".join(["```", *(result["command"] for result in results), "```"])


def filled_in(results: Results, results_dir: str | Path) -> dict[Path, str]:
    """README, docs/library.md and model card with tables of these results, and all runs as CSV.

    Args:
        results: as `utils.training.results.load_results` returns them.
        results_dir: folder of all results and of their predictions.

    Returns:
        Dict of path: its new text; nothing is written.
    """
    readme, card = Path("README.md"), Path("report/weights/README.md")
    text = fill_in(readme.read_text("utf-8"), "results", markdown_results(results))
    text = fill_in(text, "short results", markdown_results(results, short=True))
    text = fill_in(text, "times", markdown_times(results))
    text = fill_in(text, "commands", markdown_commands(results))
    metrics = markdown_metrics(results, results_dir, card.parent)
    body = re.sub(r"\A---\n.*?\n---\n", "", card.read_text("utf-8"), flags=re.DOTALL)
    library = Path("docs/library.md")
    exports = markdown_exports(read_result(result_path(results_dir, "export-parity")))
    return {
        readme: text,
        library: fill_in(library.read_text("utf-8"), "exports", exports),
        card: card_metadata(kept(results, card.parent)) + fill_in(body, "metrics", metrics),
        Path("report/results.csv"): results_csv(results_dir),
    }


def _percent(fraction: float) -> str:
    return "–" if pd.isna(fraction) else f"{fraction:.1%}"


def _seconds(seconds: float) -> str:
    return "–" if pd.isna(seconds) else f"{seconds:.0f}"


def _markdown(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; `DataFrame.to_markdown` would need one more package, and pads its cells."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(tuple(header)) + "|", *lines[1:]])


def fill_in(text: str, section: str, content: str) -> str:
    """Puts content between the marks `<!-- section: … -->` and `<!-- end of section -->`.

    Args:
        text: a Markdown text.
        section: name in the marks.
        content: the lines to put between them.

    Returns:
        The new text.

    Raises:
        ValueError: the marks are not there.
    """
    marks = re.compile(rf"(<!-- {section}:[^>]*-->\n).*?(<!-- end of {section} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"The marks of section {section!r} are missing.")
    return marks.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m utils.analysis.tables", description=__doc__
    ).parse_args()
    for path, text in filled_in(load_results("report/results"), "report/results").items():
        with replacing(path, "w") as file:
            file.write(text)
        print(path)
