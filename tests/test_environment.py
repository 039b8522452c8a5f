import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from utils import environment

ROOT = Path(__file__).parents[1]
DESCRIPTION = dict.fromkeys(("python", "keras", "backend", "cpu_count", "device"), "?")


def test_only_what_is_missing_is_installed(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "# a comment\nnumpy>=1\npillow>=9999  # too new\nno-such-package\njupyterlab>=9999\n"
    )
    missing = environment.missing_requirements(tmp_path / "requirements.txt")
    assert missing == ["pillow>=9999", "no-such-package"]


def test_the_cpu_build_of_a_package_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.metadata, "version", {"tensorflow-cpu": "2.21.0"}.__getitem__)
    monkeypatch.setattr(environment.metadata, "PackageNotFoundError", KeyError)
    (tmp_path / "requirements.txt").write_text("tensorflow>=2.19,<2.22\nnumpy\n")
    assert environment.missing_requirements(tmp_path / "requirements.txt") == ["numpy"]


def test_outside_colab_nothing_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(environment, "missing_requirements", lambda: ["no-such-package"])
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(environment, "describe", lambda: DESCRIPTION)
    environment.prepare()
    said = capsys.readouterr().out
    assert "Missing or old: no-such-package. Try: pip install -r requirements.txt" in said


def test_in_colab_the_missing_ones_are_installed(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(environment, "missing_requirements", lambda: ["no-such-package"])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command))
    monkeypatch.setattr(environment, "describe", lambda: DESCRIPTION)
    environment.prepare()
    assert calls[0][1:] == ["-m", "pip", "install", "-q", "no-such-package"]


@pytest.mark.parametrize("folder", [".", "notebooks", "report/executed"])
def test_the_bootstrap_cell_finds_the_root(folder):
    assert bootstrap(ROOT / folder) == str(ROOT)


def test_the_bootstrap_cell_finds_the_root_from_the_command_line(tmp_path):
    # As papermill does: a process that names the notebook starts the kernel in its own folder.
    starter = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    notebook = ROOT / "notebooks" / "03_train.ipynb"
    assert bootstrap(tmp_path, [sys.executable, "-c", starter], [str(notebook)]) == str(ROOT)


def test_the_bootstrap_cell_refuses_another_place(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failure:
        bootstrap(tmp_path, ["env", sys.executable, "-c"])
    assert "Start this notebook inside the project's folder." in failure.value.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_bootstrap_cell_clones_in_colab(tmp_path):
    # git is told to take this checkout for the public repository.
    git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{environment.REPOSITORY}",
    }
    colab = "import sys; sys.modules['google.colab'] = sys\n"
    assert bootstrap(tmp_path, before=colab, environ=git) == str(tmp_path / "project")
    assert (tmp_path / "project" / "notebooks" / "03_train.ipynb").exists()
    # Run again in the same session, the cell finds what it cloned.
    assert bootstrap(tmp_path / "project") == str(tmp_path / "project")


def bootstrap(folder, starter=(sys.executable, "-c"), words=(), before="", environ=None):
    """Runs the cell, without the imports of this project, and returns where it ended up."""
    book = nbformat.read(ROOT / "notebooks" / "03_train.ipynb", 4)
    cell = next(c.source for c in book.cells if c.cell_type == "code")
    source = before + cell.partition("from utils")[0] + "print(os.getcwd())"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (environ or {})
    command = [*starter, source, *words]
    options = {"cwd": folder, "env": environ, "capture_output": True, "text": True}
    return subprocess.run(command, check=True, **options).stdout.strip()


def test_peak_memory_is_that_of_the_process_alone():
    block = bytearray(600 * 2**20)
    block[::4096] = b"x" * len(block[::4096])  # every page is touched
    assert environment.peak_rss_mb() > 600
    code = "from utils.environment import peak_rss_mb; print(peak_rss_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(child.stdout) < 300
