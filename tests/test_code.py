"""Style, types and the direction of imports, by the tools that pyproject.toml configures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    ["ruff check .", "ruff format --check utils tests", "mypy", "lint-imports --no-cache"],
)
def test_tools_have_nothing_to_say(command):
    tool, *arguments = command.split()
    path = shutil.which(
        tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    run = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_packages_are_small_and_their_inits_empty():
    """But for that of `utils.models`, the library's entry, and `utils`, which sets an option."""
    for package in [path.parent for path in ROOT.glob("utils/**/__init__.py")]:
        modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
        assert len(modules) <= 9, package
        assert package.name in ("models", "utils") or not (package / "__init__.py").read_text(), (
            package
        )


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("utils.training.config", {"tensorflow", "keras", "jax", "pandas", "numpy"}),
        ("utils.training.results", {"tensorflow", "keras", "jax", "pandas", "numpy"}),
        ("utils.models", {"tensorflow", "keras", "jax", "pandas", "numpy"}),
        ("utils.models.presets", {"tensorflow", "keras", "jax", "pandas"}),
        ("utils.data.manifest", {"tensorflow", "keras", "jax", "pandas"}),
    ],
)
def test_importing_a_module_loads_what_it_needs(module, unwanted):
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not unwanted & set(run.stdout.split())
