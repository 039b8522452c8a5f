import keras
import numpy as np
import pytest
from PIL import Image

from utils.analysis.imagenet import evaluate_folder, read_image
from utils.models.torch_weights import MEAN, STD


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("height", "width"), [(384, 512), (512, 384)])
def test_geometry_of_the_central_square(tmp_path, height, width):
    """Ramps of half a level a pixel: 512x384 becomes 341x256, of which 58...282 and 16...240."""
    rows, columns = np.mgrid[:height, :width] / 2
    pixels = np.stack([columns, rows, np.full(rows.shape, 7)], axis=-1)
    image = read_image(save(tmp_path / "ramp.png", pixels)).astype(float)
    assert image.shape == (224, 224, 3)
    left, top = (58, 16) if width > height else (16, 58)
    scale = 512 / 341 if width > height else 1.5
    x = ((np.arange(224) + left + 0.5) * scale - 0.5) / 2
    scale = 512 / 341 if height > width else 1.5
    y = ((np.arange(224) + top + 0.5) * scale - 0.5) / 2
    assert np.abs(image[..., 0] - x).max() <= 1
    assert np.abs(image[..., 1] - y[:, None]).max() <= 1
    assert (image[..., 2] == 7).all()


def test_scaling_is_that_of_torchvision(tmp_path):
    """torchvision scales tensors with this function of PyTorch, antialiased like Pillow."""
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    image = read_image(save(tmp_path / "noise.png", pixels)).astype(float)
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype("float32"))
    x = torch.nn.functional.interpolate(x, size=(256, 341), mode="bilinear", antialias=True)
    expected = x.numpy()[0].transpose(1, 2, 0)[16:240, 58:282]
    assert np.abs(image - expected).max() <= 1.01


def test_mean_and_deviation():
    np.testing.assert_allclose(MEAN, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(STD, [58.395, 57.12, 57.375])


def test_grayscale_and_bad_files(tmp_path):
    gray = read_image(save(tmp_path / "gray.png", np.full((30, 40), 9)), resize=24, size=16)
    assert gray.shape == (16, 16, 3)
    assert (gray == 9).all()
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match="text.jpg is not an image that Pillow can read"):
        read_image(tmp_path / "text.jpg")


@pytest.fixture
def by_colour():
    """Says 0, 1 or 2 for what is mostly red, green or blue; three more classes never."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = keras.layers.Dense(6, kernel_initializer="zeros")(x)
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.eye(3, 6), np.array([0, 0, 0, -1, -2, -3])])
    return model


def test_accuracy_over_a_folder(tmp_path, by_colour):
    colours = {"a": [0, 0, 1], "b": [1], "c": [2, 2, 2], "d": [0], "e": [1], "f": [2]}
    for name, shown in colours.items():
        for number, colour in enumerate(shown):
            pixels = np.zeros((20, 10 + number, 3))
            pixels[..., colour] = 200
            save(tmp_path / name / "images" / f"{number}.JPEG", pixels)
    (tmp_path / "a" / "list.txt").write_text("not an image")
    found = evaluate_folder(by_colour, tmp_path, batch_size=4, resize=9)
    # Of ten, one "a" is green and those of d, e and f are never said; f alone is not in the top 5.
    assert found == {"top1": 0.6, "top5": 0.9, "images": 10}
    save(tmp_path / "a" / "masks" / "0.png", np.zeros((20, 20)))
    assert evaluate_folder(by_colour, tmp_path)["images"] == 11
    assert evaluate_folder(by_colour, tmp_path, pattern="images/*")["images"] == 10


def test_folders_must_fit_the_classes(tmp_path, by_colour):
    save(tmp_path / "a" / "0.png", np.zeros((9, 9, 3)))
    with pytest.raises(ValueError, match="each of the model's 6 classes. Received: 1"):
        evaluate_folder(by_colour, tmp_path)
    for name in "bcdef":
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has no images in b, c, d, e, f"):
        evaluate_folder(by_colour, tmp_path)
