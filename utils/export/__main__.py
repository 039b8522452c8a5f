"""A trained network in another format: `python -m utils.export simple-tuned-20ep-seed0 onnx`."""

import argparse
from pathlib import Path

from utils.commands import one_line_errors
from utils.export.formats import SUFFIXES, export_model, training_images
from utils.models.build import load_weights


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.export", description="Writes a trained network in another format."
    )
    parser.add_argument("run", help="a run whose weights are kept, or a .keras file")
    parser.add_argument("format", choices=SUFFIXES)
    parser.add_argument("out", nargs="?", help="what to write; runs/exported/<run>… otherwise")
    parser.add_argument(
        "--data-dir",
        default="data/tiny-imagenet",
        help="records of the training images, for litert-int8 (%(default)s)",
    )
    options = parser.parse_args()
    name = Path(options.run).name.removesuffix(".keras") + SUFFIXES[options.format]
    out = Path(options.out or Path("runs/exported", name))
    with one_line_errors(parser):
        model = load_weights(options.run)
        images = training_images(options.data_dir) if options.format == "litert-int8" else ()
        export_model(model, options.format, out, images=images)
    print(f"{out} written")


if __name__ == "__main__":
    main()
