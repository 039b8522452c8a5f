import ast
import dataclasses
import json
import re
import zipfile
from pathlib import Path

import pytest
from books import NOTEBOOKS, ROOT, cells, parsed
from packaging.version import Version

from utils.environment import NOT_IN_A_NOTEBOOK, REPOSITORY
from utils.training.config import RunConfig

BADGE = re.compile(r"https://colab\.research\.google\.com/github/([\w./-]+\.ipynb)")


def test_they_are_all_there_in_order():
    assert [p.stem for p in NOTEBOOKS] == [
        "01_data_conversion", "02_model_building", "03_train", "04_analysis",
        "05_performance", "06_search", "07_region_and_pixel", "08_your_images",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_opens_with_title_and_its_own_badge(self, path):
        first = cells(path, "markdown")[0].source
        assert first.startswith("# ")
        assert BADGE.findall(first) == [f"{REPOSITORY}/blob/main/notebooks/{path.name}"]

    def test_one_parameters_cell_of_literals(self, path):
        tagged = [c for c in cells(path) if "parameters" in c.metadata.get("tags", [])]
        assert len(tagged) == 1
        for statement in parsed(tagged[0]).body:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)

    def test_only_the_cell_after_the_parameters_knows_of_the_tests_profile(self, path):
        code = cells(path)
        (quick,) = (i for i, c in enumerate(code) if "QUICK" in c.source)
        assert "parameters" in code[quick - 1].metadata.get("tags", [])

    def test_cells_that_serve_machines_are_collapsed(self, path):
        for cell in (c for c in cells(path) if c.source.startswith("#@title")):
            assert cell.metadata["cellView"] == "form"  # in Colab
            assert cell.metadata["jupyter"]["source_hidden"]
        titled = [c.source.startswith("#@title") for c in cells(path)]
        assert titled[:3] == [True, False, True]
        assert not any(titled[3:])

    def test_defines_no_class_and_no_function(self, path):
        for cell in cells(path):
            for node in ast.walk(parsed(cell)):
                assert not isinstance(node, ast.ClassDef | ast.FunctionDef), cell.source

    def test_code_cells_are_short(self, path):
        code = [c for c in cells(path)[3:] if "parameters" not in c.metadata.get("tags", [])]
        assert not [c.source for c in code if len(c.source.splitlines()) > 16]

    def test_outputs_are_of_a_whole_run_without_an_error(self, path):
        counts = [c.execution_count for c in cells(path)]
        assert counts == list(range(1, len(counts) + 1))
        outputs = [o for c in cells(path) for o in c.outputs]
        assert not [o for o in outputs if o.output_type == "error"]

    def test_each_place_may_be_on_a_drive(self, path):
        names = re.compile(r".*_dir|archive|journal|weights|pictures|images_path|initial_weights")
        nodes = [node for cell in cells(path) for node in ast.walk(parsed(cell))]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        mounted = {a.id for c in calls if "mount_drive" in ast.unparse(c.func) for a in c.args}
        (tagged,) = (c for c in cells(path) if "parameters" in c.metadata.get("tags", []))
        places = {n.targets[0].id for n in parsed(tagged).body}
        assert {place for place in places if names.fullmatch(place)} <= mounted

    def test_what_papermill_passes_is_checked_first(self, path):
        first = next(c for c in cells(path) if "mount_drive(" in c.source)
        assert "\ncheck_parameters(globals())\nenvironment.mount_drive(" in first.source

    def test_last_cell_asserts(self, path):
        assert any(isinstance(n, ast.Assert) for n in ast.walk(parsed(cells(path)[-1])))

    def test_names_no_place_of_the_machine_it_ran_on(self, path):
        text = re.sub(r'"image/(png|jpeg)": "[^"]*"', "", path.read_text())
        assert not re.search(r"/(root|home|work|tmp|Users)/\w", text)


def test_each_field_of_a_run_is_a_parameter_of_03_with_the_same_default():
    (tagged,) = (c for c in cells(NOTEBOOKS[2]) if "parameters" in c.metadata.get("tags", []))
    parameters = {n.targets[0].id: ast.literal_eval(n.value) for n in parsed(tagged).body}
    del parameters["find_learning_rate"]  # which is no run
    assert parameters == {field.name: field.default for field in dataclasses.fields(RunConfig)}


def test_the_bootstrap_cell_is_the_same_everywhere():
    sources = {cells(path)[0].source for path in NOTEBOOKS}
    assert len(sources) == 1
    (source,) = sources
    assert f"https://github.com/{REPOSITORY}" in source
    title, *form = (ln for ln in source.splitlines() if ln.startswith(("#@title", "#@markdown")))
    assert "Runtime → Change runtime type → T4 GPU" in title
    text = " ".join(line.removeprefix("#@markdown ") for line in form)
    (packages,) = re.findall(r"installs what Colab lacks or has too old \((.+)\): a minute", text)
    required = re.findall(r"^\w+", (ROOT / "requirements.txt").read_text(), re.M)
    assert set(packages.lower().split(", ")) <= set(required) - NOT_IN_A_NOTEBOOK


def test_the_keras_that_is_required_loads_the_kept_weights():
    (line,) = (ln for ln in Path("requirements.txt").read_text().split("\n") if "keras" in ln[:5])
    oldest = Version(re.findall(r">=([\d.]+)", line)[0])
    for path in Path("report/weights").glob("*.keras"):  # none of an older one was ever tried
        with zipfile.ZipFile(path) as file:
            saved = Version(json.loads(file.read("metadata.json"))["keras_version"])
        assert saved.release[:2] <= oldest.release, path


def test_the_repository_has_one_name():
    pattern = re.compile(r"(?:colab\.research\.google\.com/github|github\.com)/([\w-]+/[\w-]+)")
    others = {  # that are quoted
        "kevin-ssy/FishNet",
        "cs-giung/giung2-jax",
        "fastai/course22p2",
        "peterniederl/ConvMixer-TinyImageNet",
    }
    for path in [ROOT / "README.md", *NOTEBOOKS]:
        assert set(pattern.findall(path.read_text())) - others == {REPOSITORY}, path.name


def test_readme_and_ci_run_the_same_tests():
    command = "pytest --nbval-lax"
    assert (
        f"pip install -r requirements-test.txt && {command}\n" in (ROOT / "README.md").read_text()
    )
    assert command in (ROOT / ".ci/run").read_text().splitlines()
