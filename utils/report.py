"""Typesets the report from the result JSONs and the figures: `python -m utils.report`."""

import json
from pathlib import Path

import typst

from utils import ablations
from utils.results import REPORT, load_results


def build(root=".", **options):
    """Typesets `report/report.typ`.

    Args:
        root: the project's folder, with `report/` and `figures/`.
        **options: of `typst.compile`, above all `output`; without it the PDF is returned.

    Returns:
        What `typst.compile` returns.

    Raises:
        FileNotFoundError: a run of the comparison in `utils.ablations` is missing.
        ValueError: one is not complete.
        typst.TypstError: another result that the report cites is missing, synthetic or not
            complete, or a figure is missing.
    """
    root = Path(root)
    runs = [result["run_id"] for result in load_results(root / "report/results")]
    factors = ablations.table(root / "report/results").to_dict("records")
    return typst.compile(
        root / "report/report.typ",
        root=root,
        sys_inputs={
            "runs": json.dumps(runs),
            "factors": json.dumps(factors),
            "earlier": REPORT.to_json(orient="index"),
        },
        ignore_system_fonts=True,
        timestamp=0,  # with the same fonts and time the same sources give the same bytes
        **options,
    )


if __name__ == "__main__":
    build(output="report/report.pdf")
    print("report/report.pdf")
