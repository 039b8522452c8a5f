"""A small set of real pictures to try with: photographs of Tux Paint's stamps, in class folders.

Some 220 photographs of things that were cut out, in seven classes of 18 to 64. They are in the
Debian package tuxpaint-stamps-default (GPL-2), which Ubuntu and Colab have as well.

Source: https://tuxpaint.org/stamps
"""

import os
import shutil
import subprocess
from pathlib import Path

from utils.data.archives import DatasetError
from utils.files import unfinished

PACKAGE = "tuxpaint-stamps-default"  # 161 MB
STAMPS = "usr/share/tuxpaint/stamps"  # in the package
CLASSES = {
    "birds": "animals/birds",
    "flowers": "plants/flowers",
    "fruit": "food/fruit",
    "household": "household",
    "mammals": "animals/mammals",
    "vegetables": "food/vegetables",
    "vehicles": "vehicles",
}
NO_PHOTOGRAPHS = {"cartoon", "toys", "plastic"}  # folders


def fetch_stamps(folder: str | os.PathLike) -> Path:
    """Downloads the package and sorts its photographs, unless that has been done.

    Args:
        folder: of the class folders.

    Returns:
        `folder`.

    Raises:
        DatasetError: where there is no Debian or Ubuntu, or no network.
    """
    folder = Path(folder)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(folder.parent) as scratch:
        try:
            _run(["apt-get", "download", PACKAGE], scratch)  # which checks the package's digest
            (package,) = scratch.glob("*.deb")
            _run(["dpkg-deb", "-x", package.name, "."], scratch)
            sorted_pictures = sort_stamps(scratch / STAMPS, scratch / "sorted")
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{PACKAGE} was not downloaded ({error}); give a folder of pictures of your own, "
                "or on Debian or Ubuntu run apt-get update first."
            ) from error
        try:
            sorted_pictures.replace(folder)
        except OSError:
            if not folder.exists():
                raise
            # Another process has downloaded the same in the meantime.
    return folder


def _run(command: list[str], folder: Path) -> None:
    """Runs a command; a `ValueError` has the last that it said if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        raise ValueError(said[-1])


def sort_stamps(stamps: Path, folder: Path) -> Path:
    """Copies the photographs of the classes.

    Args:
        stamps: the package's folder of them.
        folder: of the class folders.

    Returns:
        `folder`.

    Raises:
        ValueError: There are no photographs of a class.
    """
    for name, place in CLASSES.items():
        target = folder / name
        target.mkdir(parents=True)
        for picture in sorted((stamps / place).rglob("*.png")):
            parts = picture.relative_to(stamps).parts
            if not NO_PHOTOGRAPHS.intersection(parts):
                shutil.copy(picture, target / "-".join(parts))
        if not any(target.iterdir()):
            raise ValueError(f"it has no photographs in {place}")
    return folder
