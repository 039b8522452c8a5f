import os
import subprocess
import sys
import types
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


@pytest.mark.parametrize("chosen", [None, "0"])
def test_onednn_is_on_unless_the_user_turned_it_off(monkeypatch, chosen):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if chosen:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", chosen)
    script = (
        "import utils.models.build\n"
        "from tensorflow.python.framework.test_util import IsMklEnabled\n"
        "print(IsMklEnabled())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split()[-1:] == [str(chosen is None)], run.stderr


def test_outside_colab_nothing_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(environment, "missing_requirements", lambda: ["no-such-package"])
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(environment, "describe", lambda: DESCRIPTION)
    environment.prepare()
    said = capsys.readouterr().out
    assert "Missing or old: no-such-package. Try: pip install -r requirements.txt" in said


def test_in_colab_the_missing_ones_are_installed(monkeypatch, capsys):
    calls = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(environment, "missing_requirements", lambda: ["no-such-package"])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command))
    monkeypatch.setattr(environment, "describe", lambda: DESCRIPTION)
    environment.prepare()
    assert calls[0][1:] == ["-m", "pip", "install", "-q", "no-such-package"]
    assert "Restart" not in capsys.readouterr().out


def test_in_colab_what_was_loaded_before_asks_for_a_restart(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(environment, "missing_requirements", lambda: ["no-such", "pytest>=99"])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(environment, "describe", lambda: DESCRIPTION)
    environment.prepare()
    said = capsys.readouterr().out
    assert "Runtime → Restart session, then start again: loaded before is pytest>=99." in said


CPU = """processor\t: 0
model name\t: Some CPU
flags\t\t: fpu avx2 avx512f {} sse2

processor\t: 1
model name\t: Another
"""


@pytest.mark.parametrize(
    ("flag", "on_tensorflow", "fast_layers", "precision"),
    [
        ("avx512_bf16", True, True, "mixed_bfloat16"),
        ("amx_bf16", True, True, "mixed_bfloat16"),
        ("avx512_bf16", True, False, "float32"),  # Keras' layers go to float32 and back
        ("avx512_bf16", False, True, "float32"),  # XLA has no bfloat16 products there
        ("avx512_vnni", True, True, "float32"),
    ],
)
def test_best_precision_of_a_cpu(monkeypatch, flag, on_tensorflow, fast_layers, precision):
    monkeypatch.setattr(environment.Path, "read_text", lambda _: CPU.format(flag))
    monkeypatch.setattr(environment.Path, "exists", lambda _: True)
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    monkeypatch.setattr(environment, "on_tensorflow_cpu", lambda: on_tensorflow)
    assert environment.instructions() == ["avx2", "avx512f", flag]
    assert environment._cpu_name() == "Some CPU"
    assert environment.best_precision(fast_layers) == precision


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 5), "float32"), ((8, 0), "mixed_bfloat16"), ((10, 0), "mixed_bfloat16")],
)
def test_best_precision_of_a_gpu(monkeypatch, backend, capability, precision):
    jax = pytest.importorskip("jax") if backend == "jax" else None
    import keras
    import tensorflow as tf

    gpu = types.SimpleNamespace(compute_capability="{}.{}".format(*capability))
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    if jax:
        monkeypatch.setattr(jax, "devices", lambda: [gpu])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: {"compute_capability": capability} if device == "GPU" else {},
    )
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    assert environment.best_precision(fast_layers=False) == precision


def test_an_amd_gpu_has_no_compute_capability(monkeypatch):
    jax = pytest.importorskip("jax")
    import keras

    gpu = types.SimpleNamespace(compute_capability="gfx90a")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    assert environment.best_precision(fast_layers=False) == "float32"


def test_google_drive_is_mounted_for_what_is_on_it(monkeypatch):
    drive = types.SimpleNamespace(mounted=[])
    drive.mount = drive.mounted.append
    places = ("runs/a", None, "/content/drive/MyDrive/pets.zip")
    environment.mount_drive(*places)  # elsewhere that is a folder as any other
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(drive=drive))
    environment.mount_drive("runs/a", None, 2024, "https://a.b/content/drive/c.zip")
    assert drive.mounted == []
    environment.mount_drive(*places)
    assert drive.mounted == ["/content/drive"]
    monkeypatch.setattr(os.path, "ismount", lambda path: path == "/content/drive")
    environment.mount_drive(*places)
    assert drive.mounted == ["/content/drive"]


@pytest.mark.parametrize("folder", [".", "notebooks", "report/executed"])
def test_the_bootstrap_cell_finds_the_root(folder):
    assert bootstrap(ROOT / folder) == str(ROOT)


@pytest.fixture
def project(tmp_path):
    """A folder that the bootstrap cell takes for the project, with a notebook of that cell."""
    root = tmp_path / "My Drive" / "copy"
    for name in ("utils/models/fishnet.py", "notebooks/only_bootstrap.ipynb"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    cell = nbformat.v4.new_code_cell(bootstrap_source() + "print(os.getcwd())")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
    nbformat.write(notebook, root / "notebooks" / "only_bootstrap.ipynb")
    (tmp_path / "elsewhere").mkdir()
    return root


RELATIVE = ["-m", "papermill", "notebooks/only_bootstrap.ipynb", "out.ipynb"]
FROM_PYTHON = "import papermill; papermill.execute_notebook('{}', 'out.ipynb')"


@pytest.mark.parametrize(
    ("start", "command"),
    [
        (".", RELATIVE),
        (".", [*RELATIVE, "--cwd", "../../elsewhere"]),
        ("..", ["-m", "papermill", "copy/notebooks/only_bootstrap.ipynb", "out.ipynb"]),
        ("../../elsewhere", ["-c", FROM_PYTHON]),
    ],
    ids=["relative", "cwd", "from-above", "from-python-elsewhere"],
)
def test_papermill_finds_the_root(project, start, command):
    folder = (project / start).resolve()
    command = [word.format(project / "notebooks/only_bootstrap.ipynb") for word in command]
    env = clean_environ() | {"PWD": str(folder)}  # as a shell sets it
    subprocess.run([sys.executable, *command], cwd=folder, env=env, check=True, capture_output=True)
    (cell,) = nbformat.read(folder / "out.ipynb", 4).cells
    assert cell.outputs[0].text.strip() == str(project)


def test_the_bootstrap_cell_refuses_another_place(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failure:
        bootstrap(tmp_path)
    assert "Start this notebook in its folder (papermill: cwd)." in failure.value.stderr


def test_the_bootstrap_cell_clones_in_colab(tmp_path):
    origin = tmp_path / "origin"
    for name in ("utils/models/fishnet.py", "notebooks/03_train.ipynb"):
        (origin / name).parent.mkdir(parents=True)
        (origin / name).touch()
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init",), ("add", "."), (*author, "commit", "-m", "all")):
        subprocess.run(["git", *words], cwd=origin, check=True, capture_output=True)
    # git is told to take it for the public repository.
    git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{environment.REPOSITORY}",
    }
    colab = "import sys; sys.modules['google.colab'] = sys\n"
    assert bootstrap(tmp_path, before=colab, environ=git) == str(tmp_path / "project")
    assert (tmp_path / "project" / "notebooks" / "03_train.ipynb").exists()
    # Run again, in the same session or after a restart, the cell finds what it cloned.
    assert bootstrap(tmp_path / "project") == str(tmp_path / "project")
    assert bootstrap(tmp_path, before=colab) == str(tmp_path / "project")


def bootstrap_source():
    """The cell without the imports of this project."""
    book = nbformat.read(ROOT / "notebooks" / "03_train.ipynb", 4)
    return next(c.source for c in book.cells if c.cell_type == "code").partition("from utils")[0]


def clean_environ():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PWD")}


def bootstrap(folder, starter=(sys.executable, "-c"), before="", environ=None):
    """Runs the cell and returns where it ended up; nothing in the command names the project."""
    start = "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
    command = ["env", sys.executable, "-c", start, *starter]
    source = before + bootstrap_source() + "print(os.getcwd())"
    options = {"cwd": folder, "env": clean_environ() | (environ or {}), "capture_output": True}
    return subprocess.run([*command, source], check=True, text=True, **options).stdout.strip()


MEASURED = """
from pathlib import Path
from utils.environment import peak_rss_mb
before = peak_rss_mb()
block = bytearray(600 * 2**20)
block[::4096] = b"x" * len(block[::4096])  # every page is touched
after = peak_rss_mb()
Path.read_text = lambda _: "VmRSS: 1024 kB"  # gVisor says no more
print(before, after, peak_rss_mb())
"""


def test_peak_memory_is_that_of_the_process_alone():
    child = [sys.executable, "-c", MEASURED]
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after, otherwise = map(float, done.stdout.split())
    assert 5 < before < 300
    assert 590 < after - before < 610
    assert otherwise > 600


def test_what_another_backend_cannot_do(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    with pytest.raises(ValueError, match="KERAS_BACKEND must be one of tensorflow, jax. .*'torch'"):
        environment.check_backend()
    with pytest.raises(RuntimeError, match="^Grad-CAM needs KERAS_BACKEND=tensorflow.$"):
        environment.need_tensorflow("Grad-CAM")
