import subprocess

import pytest

from utils.data.archives import DatasetError
from utils.data.datasets import stamps


def test_photographs_are_sorted_and_drawings_left_out(tmp_path):
    for name in ("animals/birds/owl.png", "animals/mammals/cats/cat.png", "vehicles/bus.png",
                 "animals/mammals/cats/cartoon/cat.png", "animals/birds/owl.ogg",
                 "symbols/a.png", "vehicles/toys/car.png"):  # fmt: skip
        (tmp_path / "stamps" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stamps" / name).write_text(name)
    found = stamps.sort_stamps(tmp_path / "stamps", tmp_path / "sorted")
    files = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert files == {
        "birds/animals-birds-owl.png", "mammals/animals-mammals-cats-cat.png",
        "vehicles/vehicles-bus.png",
    }  # fmt: skip
    assert stamps.fetch_stamps(found) == found  # which downloads nothing


def test_where_the_package_cannot_be_had(tmp_path, monkeypatch):
    def missing(*args, **options):
        raise FileNotFoundError("apt-get")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(DatasetError) as error:
        stamps.fetch_stamps(tmp_path / "data" / "stamps")
    assert str(error.value) == (
        "tuxpaint-stamps-default was not downloaded (apt-get); give a folder of pictures of your "
        "own, or on Debian or Ubuntu run apt-get update first."
    )
    assert not list((tmp_path / "data").iterdir())
