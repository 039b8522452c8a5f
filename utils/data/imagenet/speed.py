"""How fast ImageNet's records are read: `python -m utils.data.imagenet.speed FOLDER`."""

import argparse
import os
import tempfile
import time

from utils.commands import one_line_errors
from utils.data.imagenet.index import index_records
from utils.data.manifest import PREPARED_WITH
from utils.data.pipeline import training_batches
from utils.data.plan import Source
from utils.environment import usable_cores

BATCH_SIZE = 256


def images_per_second(folder: str | os.PathLike, image_size: int, seconds: float) -> float:
    """Reads training batches for some time, decoded, cropped and flipped.

    Args:
        folder: see `index_records`.
        image_size: of the images that are given, in pixels.
        seconds: to read for, after the first batch.

    Returns:
        Images per second.
    """
    with tempfile.TemporaryDirectory() as data_dir:
        manifest = index_records(folder, data_dir, image_size)
        size = min(BATCH_SIZE, manifest["counts"]["train"])
        source = Source(data_dir, manifest, batch_size=size, augment=True)
        batches = training_batches(source, epochs=1000)
        batches[0]
        start, read, passed = time.perf_counter(), 0, 0.0
        while passed < seconds:
            read += 1
            batches[read]
            passed = time.perf_counter() - start
        return read * size / passed


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.data.imagenet.speed",
        description="Reads training batches for some seconds.",
    )
    parser.add_argument("folder", help="of ImageNet's TFRecords")
    parser.add_argument("--image-size", type=int, default=PREPARED_WITH["imagenet"]["image_size"])
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with one_line_errors(parser):
        speed = images_per_second(options.folder, options.image_size, options.seconds)
    print(f"{speed:.0f} images/s on {usable_cores()} cores")


if __name__ == "__main__":
    main()
