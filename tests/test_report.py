import json
import shutil
from pathlib import Path

import pytest
import typst

from utils.analysis.report import build_report


@pytest.fixture
def project(tmp_path):
    """The report's sources, to be damaged."""
    shutil.copytree("figures", tmp_path / "figures")
    (tmp_path / "report").mkdir()
    for source in ("report.typ", "references.bib"):
        shutil.copy(f"report/{source}", tmp_path / "report")
    shutil.copytree(
        "report/results", tmp_path / "report/results", ignore=shutil.ignore_patterns("*.npz")
    )
    return tmp_path


def test_the_committed_report_is_what_the_results_give():
    assert build_report() == Path("report/report.pdf").read_bytes()


def test_its_length():
    assert 8 <= len(build_report(format="png", ppi=10)) <= 12


def test_a_cited_result_that_is_missing(project):
    (project / "report/results/kills.json").unlink()
    with pytest.raises(typst.TypstError, match="kills.json"):
        build_report(project)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("search-dropout-0.5-seed0", "Study dropout is not complete; run .*06_search.ipynb"),
        ("segmentation-unet-seed1", "Comparison segmentation is not complete; run .*07_region"),
    ],
)
def test_a_comparison_that_is_not_complete(project, run, message):
    (project / f"report/results/{run}.json").unlink()
    with pytest.raises(ValueError, match=message):
        build_report(project)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "running"}, "benchmark is not complete"),
        ({"dataset": {"synthetic": True}}, "benchmark is synthetic"),
    ],
)
def test_a_cited_result_that_may_not_be_cited(project, change, message):
    path = project / "report/results/benchmark.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(typst.TypstError, match=message):
        build_report(project)


def test_a_number_in_the_report_is_the_result_s(project):
    before = build_report(project)
    path = project / "report/results/simple-course-8ep-seed0.json"
    result = json.loads(path.read_text())
    result["metrics"]["top1"] += 0.01
    path.write_text(json.dumps(result))
    assert build_report(project) != before
