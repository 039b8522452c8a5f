"""A trained network in other formats, and how each of them is run."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from utils.data.manifest import load_manifest
from utils.data.read_records import read_samples
from utils.fields import check_choice
from utils.files import unfinished
from utils.models.torch_weights import save_torch_checkpoint
from utils.training.predictions import decode_image

CALIBRATION = 300  # training images that the ranges of int8 are measured on
SUFFIXES = {
    "onnx": ".onnx",
    "litert": ".tflite",
    "litert-int8": "-int8.tflite",
    "saved-model": "",  # a folder
    "torch": ".pth.tar",
}


def export_model(
    model: keras.Model,
    form: str,
    path: str | Path,
    *,
    images: Iterable[np.ndarray] = (),
) -> None:
    """Writes a network in another format, whole or not at all.

    Args:
        model: a `keras.Model` from pixels of 0..255 (n, size, size, 3) to logits.
        form: a key of `SUFFIXES`.
        path: the file, or for "saved-model" the folder; it must not exist.
        images: pixels (size, size, 3) that are typical of the network's input, for "litert-int8".

    Raises:
        ValueError: the format is unknown (lists the valid ones), the path exists, or the network is
            one that the format cannot have.
        ImportError: a package that the format needs is missing; names it.
    """
    check_choice("format", form, SUFFIXES)
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists already. Move it away or choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path.parent) as folder:
        written = folder / f"model{SUFFIXES[form]}"  # Keras looks at the ending
        if form == "torch":
            save_torch_checkpoint(model, written)
        else:
            # Keras infers this too, but for ONNX only after a call of the model.
            signature = [keras.InputSpec("float32", model.input_shape, name="image")]
            options = _options(form, images)
            model.export(str(written), verbose=False, input_signature=signature, **options)
        shutil.move(written, path)


def _options(form: str, images: Iterable[np.ndarray]) -> dict[str, Any]:
    """Of `keras.Model.export`."""
    if form == "onnx":
        return {"format": "onnx"}
    if form == "saved-model":
        return {"format": "tf_saved_model"}
    if form == "litert":
        return {"format": "litert"}
    import tensorflow as tf

    typical = [image[None].astype("float32") for image in images]
    if not typical:
        raise ValueError("litert-int8 needs images to measure the ranges of values on.")
    return {
        "format": "litert",
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image] for image in typical),
    }


def training_images(data_dir: str | Path) -> list[np.ndarray]:
    """The first training images of a folder of records.

    Args:
        data_dir: folder of the records.

    Returns:
        List of uint8 arrays (height, width, 3).

    Raises:
        DatasetError: there are no records; says how to have them made.
    """
    samples = read_samples(data_dir, load_manifest(data_dir, verify=False), count=CALIBRATION)
    return [decode_image(jpeg) for jpeg, _, _ in samples]


def load_exported(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a file of `export_model` with the usual runtime of its format.

    Args:
        path: ends in .onnx or .tflite, or is a folder with a SavedModel.

    Returns:
        A function from pixels of 0..255 (n, size, size, 3) to logits (n, classes).

    Raises:
        ImportError: that runtime is missing.
    """
    path = Path(path)
    loaders = {".onnx": _onnx, ".tflite": _litert}
    return loaders.get(path.suffix, _saved_model)(path)


def _onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.astype("float32")})[0]


def _litert(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()

    def logits(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(inputs["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(inputs["index"], images.astype("float32"))
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    return logits


def _saved_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images, tf.float32)).numpy()
