import json
import shutil
from pathlib import Path

import pytest
import typst

from utils.analysis.report import build_report, measured, spread_between_seeds


@pytest.fixture
def project(tmp_path):
    """The report's sources, to be damaged."""
    shutil.copytree("figures", tmp_path / "figures")
    (tmp_path / "report").mkdir()
    for source in ("report.typ", "references.bib"):
        shutil.copy(f"report/{source}", tmp_path / "report")
    for folder in ("parts", "results"):
        shutil.copytree(f"report/{folder}", tmp_path / "report" / folder)
    return tmp_path


def test_the_committed_report_is_what_the_results_give():
    is_same = build_report() == Path("report/report.pdf").read_bytes()  # bytes: no diff of them
    assert is_same, "run python -m utils.analysis.report"


def test_its_length():
    assert 12 <= len(build_report(format="png", ppi=10)) <= 26


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
        ({"dataset": {"synthetic": True}}, "benchmark: synthetic is not false"),
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


def longer(project, old, new, epochs=30, **changes):
    """A result as a longer run of other seeds or networks would leave it."""
    folder = project / "report/results"
    result = json.loads((folder / f"{old}.json").read_text())
    result |= {"run_id": new, **changes}
    result["history"] = {name: [values[-1]] * epochs for name, values in result["history"].items()}
    result["history"]["val_top1"][0] = 0.3
    result["history"]["top1"][0] = 0.3
    (folder / f"{new}.json").write_text(json.dumps(result))
    shutil.copy(folder / f"{old}.npz", folder / f"{new}.npz")


def test_the_text_holds_when_results_are_added(project):
    pages = len(build_report(project, format="png", ppi=10))
    course, tuned = "simple-course-10ep-seed0", "complex-tuned-v2-30ep-activation-silu-seed0"
    longer(project, course, "simple-course-30ep-seed0")
    longer(project, course, "simple-course-30ep-bn-momentum-0.99-seed0")
    longer(project, tuned, "complex-tuned-30ep-stem-half-seed0")
    for seed in (0, 1):
        longer(project, tuned, f"complex-tuned-30ep-seed{seed}", seed=seed)
        preset = "residual_parameters"
        longer(project, tuned, f"{preset}-tuned-30ep-seed{seed}", seed=seed, preset=preset)
    assert pages <= len(build_report(project, format="png", ppi=10)) <= pages + 2


def test_what_is_not_complete_is_left_out(tmp_path):
    folder = shutil.copytree("report/results", tmp_path / "results")
    before = measured(folder)
    other = json.loads((folder / "search-dropout-0.5-seed0.json").read_text())
    other |= {"run_id": "search-dropout-0.5-seed1", "status": "running"}
    other["metrics"]["top1"] = 0.9
    (folder / "search-dropout-0.5-seed1.json").write_text(json.dumps(other))
    after = measured(folder)
    assert after["spread"] == before["spread"]
    assert after["results"] == before["results"]


def test_the_spread_between_seeds():
    def run(name, top1, split="holdout"):
        return {"run_id": name, "metrics": {"top1": top1, "split": split}}

    results = [run("a-seed0", 0.1), run("a-seed1", 0.14), run("b-seed0", 0.5), run("c-seed0", 0.2)]
    results += [run("c-seed1", 0.21), run("d-seed0", 0.1, "val"), run("d-seed1", 0.9, "val")]
    results += [run(f"guessing-seed{seed}", 0.004999999888241291) for seed in (0, 1)]
    found = spread_between_seeds(results)
    assert found == {"pairs": 2, "largest": pytest.approx(0.04)}
