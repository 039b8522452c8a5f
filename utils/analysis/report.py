"""Typesets the report from the result JSONs and the figures: `python -m utils.analysis.report`."""

import json
from pathlib import Path
from typing import Any

import typst

from utils.analysis.published import COURSE_REPORT
from utils.experiments.ablations import ablation_table
from utils.experiments.comparison import COMPARISONS, comparison_runs, comparison_table
from utils.experiments.search import points, study_table
from utils.training.results import complete_result, load_results

STUDIES = ("down_sampling", "activation", "dropout", "optimizer", "size")  # that it cites


def build_report(root: str | Path = ".", **options: Any) -> Any:
    """Typesets `report/report.typ`.

    Args:
        root: the project's folder, with `report/` and `figures/`.
        **options: of `typst.compile`, above all `output`; without it the PDF is returned.

    Returns:
        What `typst.compile` returns.

    Raises:
        FileNotFoundError: a run of the comparison in `utils.experiments.ablations` is missing.
        ValueError: one is not complete, or a study of `utils.experiments.search` or a comparison of
            `utils.experiments.comparison` is not.
        typst.TypstError: another result that the report cites is missing, synthetic or not
            complete, or a figure is missing.
    """
    root = Path(root)
    runs = [result["run_id"] for result in load_results(root / "report/results")]
    factors = ablation_table(root / "report/results").to_dict("records")
    studies = {name: _study(name, root / "report/results") for name in STUDIES}
    compared = {task: _compared(task, root / "report/results") for task in COMPARISONS}
    return typst.compile(
        root / "report/report.typ",
        root=root,
        sys_inputs={
            "runs": json.dumps(runs),
            "factors": json.dumps(factors),
            "studies": json.dumps(studies),
            "compared": json.dumps(compared),
            "earlier": COURSE_REPORT.to_json(orient="index"),
        },
        ignore_system_fonts=True,
        timestamp=0,  # with the same fonts and time the same sources give the same bytes
        **options,
    )


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


if __name__ == "__main__":
    build_report(output="report/report.pdf")
    print("report/report.pdf")
