"""What is tracked: light enough to clone anywhere, and complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIB = 2**20


def tracked():
    command = ["git", "ls-files", "-z"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in run.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_all_of_it_is_below_30_mib():
    assert sum(path.stat().st_size for path in tracked()) < 30 * MIB


@pytest.mark.parametrize(
    ("folder", "each", "together"),
    [("report/weights", 4, 20), ("report/results", 0.5, 6)],
)
def test_folders_keep_their_budget(folder, each, together):
    sizes = {p.name: p.stat().st_size / MIB for p in tracked() if (ROOT / folder) in p.parents}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > each} == {}
    assert sum(sizes.values()) < together


def test_outputs_of_a_notebook_are_below_1_mb():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert len(json.dumps(outputs)) < 1e6, path.name


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", "constraints.txt",
     ".pre-commit-config.yaml", ".github/workflows/tests.yml"],
)  # fmt: skip
def test_what_a_project_needs_is_there(name):
    assert (ROOT / name).stat().st_size


def test_constraints_are_the_versions_of_the_results():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for path in (ROOT / "report/results").glob("*.json"):
        env = json.loads(path.read_text())["env"]
        if path.stem.startswith("layers-in-call-"):  # with Keras 2, in an environment of its own
            continue
        for name in ("tensorflow", "keras", "jax"):
            is_missing = env[name] is None and name == "jax"  # it is not of requirements.txt
            assert is_missing or env[name] == pinned[name], path.name


@pytest.mark.parametrize("options", [["-p", "no:xdist"], ["-n", "0"], []])
def test_tests_run_with_and_without_xdist(options):
    command = [sys.executable, "-m", "pytest", "--collect-only", *options, "conftest.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, run.stdout + run.stderr
