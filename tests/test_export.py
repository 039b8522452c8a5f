"""A trained network in other formats computes what it computes in Keras."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
import runs

from utils.analysis.gradients import kept_images
from utils.export import __main__ as command
from utils.export import formats, parity
from utils.models.build import build_model
from utils.models.presets import PRESETS
from utils.models.torch_weights import convert_torch_checkpoint
from utils.training.predictions import load_predictions
from utils.training.results import read_result

pytestmark = pytest.mark.tracing


@pytest.fixture(scope="module")
def images():
    """Real ones, of the validation set."""
    return kept_images(load_predictions("report/results/simple-tuned-8ep-seed0.npz"))[0][:8]


def network(config):
    """With statistics of its own; classifies images as if it had learned something."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    normalization = ([120.0, 110.0, 100.0], [70.0, 68.0, 71.0])
    model = build_model(config, num_classes=12, normalization=normalization, name="small")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_mean.shape))
    return model


@pytest.fixture(scope="module")
def model():
    """With channel reduction and all else that a FishNet has."""
    return network(runs.WHOLE)


@pytest.fixture(scope="module")
def tail():
    return network(runs.SMALL)


@pytest.mark.parametrize(
    ("form", "network", "needs"),
    [
        ("onnx", "model", ("tf2onnx", "onnxruntime")),
        ("litert", "model", ("ai_edge_litert",)),
        ("saved-model", "tail", ()),
    ],
)
def test_logits_are_the_same(form, network, needs, images, tmp_path, request):
    for package in needs:
        pytest.importorskip(package)
    model = request.getfixturevalue(network)
    path = tmp_path / f"a{formats.SUFFIXES[form]}"
    formats.export_model(model, form, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    found = parity.compare(model.predict_on_batch(images), formats.load_exported(path)(images))
    assert (found["images"], found["differing"]) == (8, 0)
    assert found["largest_difference"] < 1e-4
    assert formats.load_exported(path)(images[:1]).shape == (1, 12)  # batches of any size


def test_int8_is_close(tail, images, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    formats.export_model(tail, "litert-int8", tmp_path / "a.tflite", images=images)
    logits = tail.predict_on_batch(images)
    found = parity.compare(logits, formats.load_exported(tmp_path / "a.tflite")(images))
    assert 0 < found["largest_difference"] < np.ptp(logits) / 3
    kinds = [
        tensor["dtype"]
        for tensor in interpreter.Interpreter(str(tmp_path / "a.tflite")).get_tensor_details()
    ]
    assert kinds.count(np.int8) > 30  # features as well as kernels
    with pytest.raises(ValueError, match="litert-int8 needs images"):
        formats.export_model(tail, "litert-int8", tmp_path / "b.tflite")


def test_torch_weights_come_back_exactly(model, images, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(PRESETS, "whole", runs.WHOLE)
    formats.export_model(model, "torch", tmp_path / "a.pth.tar")
    again = convert_torch_checkpoint(tmp_path / "a.pth.tar", "whole", tmp_path / "a.keras")
    assert again.input_shape == (None, 64, 64, 3)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found = parity.compare(*(m.predict_on_batch(images) for m in (model, again)))
    assert found["largest_difference"] < 1e-4  # of the same pixels


@pytest.mark.parametrize(
    ("stem", "changes", "received"),
    [
        ("half", {}, "stride 2"),
        ("imagenet", {"stages": "tail"}, "stride 4, no bridge, no body_1, .*, no head_3"),
        *(
            ("imagenet", {"down_sampling": pool}, "stride 4, tail_1.*")
            for pool in ("average_pool", "max_pool_3x3", "convolution")
        ),
        ("imagenet", {"groups": 2, "bottleneck_ratio": 1}, "stride 4, tail_1_block1_conv2, .*"),
    ],
)
def test_networks_that_the_authors_do_not_have(tmp_path, stem, changes, received):
    pytest.importorskip("torch")
    network = build_model(dataclasses.replace(runs.WHOLE, **changes), num_classes=3, stem=stem)
    with pytest.raises(ValueError, match=f"without groups. Received: {received}$"):
        formats.export_model(network, "torch", tmp_path / "a.pth.tar")
    assert [*tmp_path.iterdir()] == []


def test_how_networks_are_compared():
    ours = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    theirs = ours + np.array([[0.0, 0.5], [-4.0, 0.0], [0.0, 0.0]])
    found = parity.compare(ours, theirs)
    assert found == {"images": 3, "differing": 1, "largest_difference": 4.0}
    halves = parity.in_batches(lambda images: images.sum(axis=(1, 2)), np.ones((150, 2, 2, 3)))
    assert halves.shape == (150, 3)


def test_nothing_is_overwritten_and_formats_are_named(tail, tmp_path):
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(ValueError, match="a.onnx exists already. Move it away"):
        formats.export_model(tail, "onnx", tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"
    with pytest.raises(ValueError, match="onnx, litert, .*, torch. Received: 'coreml'"):
        formats.export_model(tail, "coreml", tmp_path / "a")


def test_the_command(tail, shapes, tmp_path, monkeypatch, capsys):
    """With what it reads from a folder of records; what is wrong is one line."""
    written = []
    monkeypatch.setattr(
        command, "export_model", lambda *args, images: written.append((*args[1:], [*images]))
    )
    tail.save(tmp_path / "mine-0.05-seed0.keras")
    arguments = [
        "export",
        str(tmp_path / "mine-0.05-seed0.keras"),
        "litert-int8",
        "--data-dir",
        str(shapes),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    ((form, path, images),) = written
    assert (form, str(path)) == ("litert-int8", "runs/exported/mine-0.05-seed0-int8.tflite")
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert len(images) == 24 * 12  # all that there are, up to 300
    assert capsys.readouterr().out == "runs/exported/mine-0.05-seed0-int8.tflite written\n"
    monkeypatch.setattr(sys, "argv", ["export", "simpel", "onnx"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert "kept weights: complex-stem-half-100ep-seed0, " in capsys.readouterr().err


def test_what_was_measured_on_the_validation_images():
    """Rounding alone in every format but int8, which costs less than five points of top-1."""
    exports = read_result("report/results/export-parity.json")["exports"]
    assert [*exports] == [*parity.RUNS]
    for run, forms in exports.items():
        assert [*forms] == ["keras", *parity.RUNS[run]]
        keras_top1 = forms.pop("keras")["top1"]  # of all
        for form, row in forms.items():
            if form == "litert-int8":
                assert row["images"] == 10_000
                assert row["top1"] > keras_top1 - 0.05
            else:
                assert (row["images"], row["differing"]) == (500, 0)
                assert row["largest_difference"] < 1e-4
