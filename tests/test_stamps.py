import os
import shutil
import subprocess

import pytest

from utils.data.archives import DatasetError
from utils.data.datasets import stamps

PHOTOGRAPHS = (
    "animals/birds/owl.png", "animals/mammals/cats/cat.png", "vehicles/bus.png",
    "plants/flowers/rose.png", "food/fruit/plum.png", "household/cup.png",
    "food/vegetables/leek.png",
)  # fmt: skip
OTHERS = (
    "animals/mammals/cats/cartoon/cat.png", "animals/birds/owl.ogg", "symbols/a.png",
    "vehicles/toys/car.png",
)  # fmt: skip
DEBIAN = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no Debian or Ubuntu")
REMEDY = "; give a folder of pictures of your own, or on Debian or Ubuntu run apt-get update first."


def write_stamps(folder, names=PHOTOGRAPHS + OTHERS):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_photographs_are_sorted_and_drawings_left_out(tmp_path):
    found = stamps.sort_stamps(write_stamps(tmp_path / "stamps"), tmp_path / "sorted")
    assert files_in(found) == {
        "birds/animals-birds-owl.png", "mammals/animals-mammals-cats-cat.png",
        "vehicles/vehicles-bus.png", "flowers/plants-flowers-rose.png",
        "fruit/food-fruit-plum.png", "household/household-cup.png",
        "vegetables/food-vegetables-leek.png",
    }  # fmt: skip
    assert stamps.fetch_stamps(found) == found  # which downloads nothing


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Puts a script in the place of apt-get."""

    def say(script):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "apt-get").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("LC_ALL", "C")

    return say


NO_NETWORK = "E: Failed to fetch http://deb.debian.org/t.deb  Temporary failure resolving"
MISMATCH = "E: Failed to fetch http://deb.debian.org/t.deb  Hash Sum mismatch"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (f"echo '{NO_NETWORK}' >&2; exit 100", NO_NETWORK),
        (f"echo half > t.deb; echo '{MISMATCH}' >&2; exit 100", MISMATCH),
        ("exit 1", "apt-get ended with 1"),
        pytest.param(
            "echo half > t.deb",
            "dpkg-deb: error: 't.deb' is not a Debian format archive",
            marks=DEBIAN,
        ),
    ],
)
def test_where_the_package_cannot_be_had(tmp_path, apt, script, text):
    apt(script)
    with pytest.raises(DatasetError) as error:
        stamps.fetch_stamps(tmp_path / "data" / "stamps")
    assert str(error.value) == f"{stamps.PACKAGE} was not downloaded ({text}){REMEDY}"
    assert not list((tmp_path / "data").iterdir())


def test_where_there_is_no_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match="No such file or directory: 'apt-get'"):
        stamps.fetch_stamps(tmp_path / "data" / "stamps")


def build(folder, names):
    """A Debian package, and the script that downloads it."""
    (folder / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: stamps\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (folder / "DEBIAN" / "control").write_text(control)
    write_stamps(folder / stamps.STAMPS, names)
    package = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "-b", folder, package], check=True, capture_output=True)
    return f"cp {package} ."


@DEBIAN
@pytest.mark.parametrize("missing", [0, 1])
def test_a_package_is_unpacked_and_a_class_without_photographs_refused(tmp_path, apt, missing):
    apt(build(tmp_path / "package", PHOTOGRAPHS[missing:]))
    target = tmp_path / "data" / "stamps"
    if missing:
        with pytest.raises(DatasetError, match="it has no photographs in animals/birds"):
            stamps.fetch_stamps(target)
        assert not list(target.parent.iterdir())
    else:
        assert len(files_in(stamps.fetch_stamps(target))) == len(PHOTOGRAPHS)
        assert [path.name for path in target.parent.iterdir()] == ["stamps"]


@DEBIAN
def test_of_two_downloads_at_once_the_first_stands(tmp_path, apt):
    target = tmp_path / "data" / "stamps"
    apt(f"{build(tmp_path / 'package', PHOTOGRAPHS)}; mkdir {target}; touch {target}/first")
    assert files_in(stamps.fetch_stamps(target)) == {"first"}
    assert [path.name for path in target.parent.iterdir()] == ["stamps"]
