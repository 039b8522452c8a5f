"""Whether exported networks compute the same: `python -m utils.export.parity --help`."""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from utils.commands import one_line_errors
from utils.data.manifest import load_manifest, manifest_sha256
from utils.data.read_records import encoded_images
from utils.environment import describe
from utils.experiments.side_by_side import their_network
from utils.export.formats import SUFFIXES, export_model, load_exported, training_images
from utils.models.build import load_weights
from utils.models.presets import FishNetConfig, get_preset
from utils.models.torch_weights import read_torch_checkpoint
from utils.training.predictions import decode_image, load_predictions
from utils.training.results import read_result, result_path, write_benchmark

RUNS = {  # and the formats of each; the authors have no SiLU, no other stem
    "simple-tuned-20ep-seed0": tuple(SUFFIXES),
    "complex-stem-half-100ep-seed0": tuple(form for form in SUFFIXES if form != "torch"),
}
PACKAGES = ("onnx", "onnxruntime", "tf2onnx", "ai-edge-litert", "torch")
BATCH_SIZE = 100
IMAGES = 500  # of the validation set; for int8, which is not to compute the same, all of them

Logits = Callable[[np.ndarray], np.ndarray]  # from pixels of 0..255 (n, size, size, 3)


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Sets the logits of an exported network beside those of Keras.

    Args:
        ours: (n, classes), of Keras.
        theirs: likewise, of the exported network.

    Returns:
        Dict: images, their number; differing, on how many of them the most probable class is
        another; and largest_difference of a logit.
    """
    return {
        "images": len(theirs),
        "differing": int((theirs.argmax(axis=1) != ours.argmax(axis=1)).sum()),
        "largest_difference": float(np.abs(theirs - ours).max()),
    }


def in_batches(logits: Logits, images: np.ndarray) -> np.ndarray:
    """Applies a network to some images at a time."""
    parts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([np.asarray(logits(images[i : i + BATCH_SIZE])) for i in parts])


def authors_logits(path: Path, model: keras.Model, preset: str, authors_code: Path) -> Logits:
    """The authors' network in PyTorch with the weights of an exported checkpoint.

    Args:
        path: the checkpoint.
        model: that was exported; its first layer normalizes for the authors' network.
        preset: of its widths and blocks.
        authors_code: folder of a checkout of github.com/kevin-ssy/FishNet at commit b968f02.

    Returns:
        A function from pixels to logits.
    """
    import torch

    config = get_preset(preset)
    assert isinstance(config, FishNetConfig), "the authors have no other network"
    network = their_network(config, authors_code, model.output_shape[-1]).eval()
    arrays = read_torch_checkpoint(path)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    normalization = model.get_layer("normalization")

    def logits(images: np.ndarray) -> np.ndarray:
        x = keras.ops.convert_to_numpy(normalization(images)).transpose(0, 3, 1, 2)
        with torch.no_grad():
            return network(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    return logits


def exported(
    model: keras.Model,
    preset: str,
    forms: Iterable[str],
    data_dir: str | Path,
    authors_code: str | Path,
) -> Iterator[tuple[str, Logits, int]]:
    """Exports a network to some formats, and yields its name, the network there and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for form in forms:
            path = Path(folder, f"{form}{SUFFIXES[form]}")
            images = training_images(data_dir) if form == "litert-int8" else ()
            export_model(model, form, path, images=images)
            if form == "torch":
                logits = authors_logits(path, model, preset, Path(authors_code))
            else:
                logits = load_exported(path)
            files = path.rglob("*") if path.is_dir() else [path]
            yield form, logits, sum(file.stat().st_size for file in files if file.is_file())


def measure(data_dir: str | Path, results_dir: str | Path, authors_code: str | Path) -> None:
    """Compares all formats on the validation images, and writes `export-parity.json`."""
    manifest = load_manifest(data_dir, verify=False)
    images = np.stack([decode_image(jpeg) for jpeg in encoded_images(data_dir, manifest)])
    found: dict[str, dict[str, Any]] = {}
    for run, forms in RUNS.items():
        model, preset = load_weights(run), read_result(result_path(results_dir, run))["preset"]
        labels = load_predictions(Path(results_dir, f"{run}.npz"))["labels"]
        ours = in_batches(model.predict_on_batch, images)
        found[run] = {"keras": {"images": len(images), "top1": _top1(ours, labels)}}
        for form, logits, size in exported(model, preset, forms, data_dir, authors_code):
            count = len(images) if form == "litert-int8" else IMAGES
            theirs = in_batches(logits, images[:count])
            row = compare(ours[:count], theirs) | {"top1": _top1(theirs, labels), "bytes": size}
            found[run][form] = row
            print(run, form, row)
    measured = {
        "command": "python -m utils.export.parity --authors-code FishNet",
        "dataset": {"split": "val", "manifest_sha256": manifest_sha256(manifest)},
        "env": describe() | {name: metadata.version(name) for name in PACKAGES},
        "exports": found,
    }
    write_benchmark(result_path(results_dir, "export-parity"), measured)


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels[: len(logits)]).mean())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.export.parity",
        description="Compares exported networks with Keras on the validation images.",
    )
    parser.add_argument("--authors-code", required=True, help="a checkout of their repository")
    parser.add_argument("--data-dir", default="data/tiny-imagenet", help="records (%(default)s)")
    parser.add_argument("--results-dir", default="report/results", help="(%(default)s)")
    options = parser.parse_args()
    with one_line_errors(parser):
        measure(options.data_dir, options.results_dir, options.authors_code)


if __name__ == "__main__":
    main()
