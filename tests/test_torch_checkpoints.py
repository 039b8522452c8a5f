"""Files as `torch.save` writes them, read as a user's would be; skipped without PyTorch."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from original import REFERENCES, build_reference, fill_weights, read_reference, relative_error

from utils.models import torch_weights
from utils.models.presets import PRESETS
from utils.models.torch_weights import convert_torch_checkpoint, read_torch_checkpoint

pytestmark = pytest.mark.tracing

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]


class Code:
    """What a pickle could bring along."""


def tensors(name):
    shapes = read_reference(name)["shapes"]
    return {key: torch.from_numpy(array) for key, array in fill_weights(shapes).items()}


@pytest.fixture
def small(monkeypatch):
    """The small network of the reference numbers as a preset."""
    monkeypatch.setitem(PRESETS, "small", REFERENCES["small_64"][0])


def test_what_the_authors_training_writes(small, tmp_path):
    """A DataParallel's state dict beside the optimizer's, in PyTorch's format of that time."""
    found = {f"module.{name}": tensor for name, tensor in tensors("small_64").items()}
    found["module.conv1.1.num_batches_tracked"] = torch.tensor(7)
    checkpoint = {"epoch": 100, "arch": "fishnet", "best_prec1": 78.1, "state_dict": found}
    checkpoint["optimizer"] = {"state": {}, "param_groups": [{"lr": 0.1, "nesterov": False}]}
    path = tmp_path / "small.pth.tar"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    convert_torch_checkpoint(path, "small", tmp_path / "small.keras", image_size=64)
    model = keras.models.load_model(tmp_path / "small.keras")
    assert model.input_shape == (None, 64, 64, 3)
    expected, x = build_reference("small_64")
    pixels = x * np.array(torch_weights.STD) + np.array(torch_weights.MEAN)
    assert relative_error(model(pixels.astype("float32")), np.asarray(expected(x))) <= 1e-4


def test_the_command(tmp_path):
    """FishNet-99 as a bare state dict, converted as the README says."""
    torch.save(tensors("fishnet99_224"), tmp_path / "fishnet99.pth")
    files = [str(tmp_path / "fishnet99.pth"), "fishnet99", str(tmp_path / "fishnet99.keras")]
    command = [sys.executable, "-m", "utils.models.torch_weights", *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("fishnet99.keras written")
    model = keras.models.load_model(tmp_path / "fishnet99.keras")
    _, x = build_reference("fishnet99_224")
    pixels = (x * np.array(torch_weights.STD) + np.array(torch_weights.MEAN)).astype("float32")
    expected = read_reference("fishnet99_224")["logits_eval"]
    assert relative_error(model(pixels), expected) <= 1e-4


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_is_refused_by_name(tmp_path, new_format):
    checkpoint = {"state_dict": tensors("small_64"), "args": Code()}
    path = tmp_path / "code.pth.tar"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match="code.pth.tar holds .*Code, code that is not a tensor"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("parameters", [False, True])
def test_any_precision_and_parameters_become_float32_arrays(tmp_path, dtype, parameters):
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=dtype)
    kept = torch.nn.Parameter(values) if parameters else values
    torch.save({"conv1.0.weight": kept, "count": torch.tensor(7)}, tmp_path / "a.pth")
    read = read_torch_checkpoint(tmp_path / "a.pth")
    assert read["conv1.0.weight"].dtype == np.float32
    np.testing.assert_array_equal(read["conv1.0.weight"], [[1.5, -2.0], [0.25, 3.0]])
    assert read["count"] == 7


@pytest.mark.parametrize(
    "prefix", ["", "module.", "module.module.", "_orig_mod.", "model._orig_mod."]
)
@pytest.mark.parametrize(
    "keys", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")]
)
def test_wrappers_of_a_state_dict_are_taken_off(tmp_path, prefix, keys):
    checkpoint = {f"{prefix}conv1.0.weight": torch.tensor([1.0, 2.0])}
    for key in reversed(keys):
        checkpoint = {"epoch": 3, key: checkpoint}
    torch.save(checkpoint, tmp_path / "a.pth")
    ((name, array),) = read_torch_checkpoint(tmp_path / "a.pth").items()
    assert (name, array.tolist()) == ("conv1.0.weight", [1.0, 2.0])


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "text.pth.tar").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="text.pth.tar"):
        read_torch_checkpoint(tmp_path / "text.pth.tar")
    whole = tmp_path / "whole.pth.tar"
    torch.save(tensors("small_64"), whole)
    (tmp_path / "cut.pth.tar").write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut.pth.tar cannot be read as a file of PyTorch"):
        read_torch_checkpoint(tmp_path / "cut.pth.tar")
    torch.save({"epoch": 3}, tmp_path / "empty.pth.tar")
    with pytest.raises(ValueError, match="empty.pth.tar holds no state dict.* the keys epoch"):
        read_torch_checkpoint(tmp_path / "empty.pth.tar")
    torch.save([1, 2], tmp_path / "list.pth.tar")
    with pytest.raises(ValueError, match="list.pth.tar holds no state dict.* Received: a list"):
        read_torch_checkpoint(tmp_path / "list.pth.tar")
    old = tmp_path / "old.pth.tar"
    torch.save(tensors("small_64"), old, _use_new_zipfile_serialization=False)
    for size in (1, 10, 100, 5000, 100_000):
        (tmp_path / "cut.pth.tar").write_bytes(old.read_bytes()[:size])
        with pytest.raises(ValueError, match="cut.pth.tar"):
            read_torch_checkpoint(tmp_path / "cut.pth.tar")


def test_a_checkpoint_of_another_network_is_refused_and_nothing_written(small, tmp_path):
    torch.save(tensors("small_64"), tmp_path / "small.pth.tar")
    output = tmp_path / "complex.keras"
    with pytest.raises(ValueError, match="small.pth.tar is not a checkpoint of complex") as error:
        convert_torch_checkpoint(tmp_path / "small.pth.tar", "complex", output, image_size=64)
    assert "missing: fish.fish.0.0.1.bn1.weight" in str(error.value)
    assert len(str(error.value).splitlines()) == 7
    assert not output.exists()
