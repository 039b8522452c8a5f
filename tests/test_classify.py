import contextlib
import shutil
import struct

import keras
import numpy as np
import pytest
from PIL import Image

from utils.analysis.classify import (
    classify,
    evaluate_folder,
    kept_classifiers,
    load_classifier,
    resized_center_crop,
)
from utils.data import pictures
from utils.data.pictures import ImageError, central_square, read_image

WORDS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def model():
    """Predicts the strongest color; the purer it is, the more confidently."""
    inputs = keras.Input((64, 64, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Rescaling(1 / 25.5)(mean))


def picture(path, color=(255, 0, 0), size=(80, 100), mode="RGB", **options):
    Image.new(mode, size, color).save(path, **options)
    return path


def test_kept_classifiers_are_found_from_any_folder(tmp_path, monkeypatch):
    here = kept_classifiers()
    assert here
    monkeypatch.chdir(tmp_path)
    assert kept_classifiers() == here


def test_one_file(model, tmp_path):
    table = classify(model, WORDS, picture(tmp_path / "a.png", (0, 255, 51)), top=2)
    assert table[["file", "rank", "words"]].values.tolist() == [
        ["a.png", 1, "green"],
        ["a.png", 2, "blue"],
    ]
    total = np.exp(10) + np.exp(2) + 1
    expected = [np.exp(10) / total, np.exp(2) / total]
    np.testing.assert_allclose(table["probability"], expected, rtol=1e-4)


def test_a_folder_goes_on_after_files_that_are_no_images(model, tmp_path):
    picture(tmp_path / "b.jpg", (0, 0, 255))
    picture(tmp_path / "c.png")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "below").mkdir()
    table = classify(model, WORDS, tmp_path, top=1)
    assert table["file"].tolist() == ["b.jpg", "c.png", "a.txt"]
    assert table["rank"].tolist() == [1, 1, 0]
    assert table["words"].tolist()[:2] == ["blue", "red"]
    assert table["words"][2].endswith("a.txt is not an image that Pillow can read.")


@pytest.mark.parametrize(
    "error",
    [
        *(SyntaxError("bad EXIF"), ValueError("text chunk"), OSError("truncated"), MemoryError()),
        *(struct.error("short"), EOFError("end"), KeyError("tag"), Image.DecompressionBombError()),
    ],
    ids=repr,
)
def test_whatever_pillow_raises_one_bad_file_does_not_stop_a_folder(
    model, tmp_path, monkeypatch, error
):
    picture(tmp_path / "good.png")
    picture(tmp_path / "bad.png")
    transpose = pictures._upright

    def raising(image):
        if image.filename.endswith("bad.png"):
            raise error
        return transpose(image)

    monkeypatch.setattr(pictures, "_upright", raising)
    table = classify(model, WORDS, tmp_path, top=1)
    assert table[["file", "rank"]].values.tolist() == [["good.png", 1], ["bad.png", 0]]
    assert table["words"][1].startswith(f"{tmp_path}/bad.png ")


def test_damaged_files_of_many_formats_are_image_errors(tmp_path):
    """Real damage: files of each format cut off, and with bytes overwritten."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    for ending in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "tga", "ico"):
        path = tmp_path / f"a.{ending}"
        noise.save(path)
        data = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(data[: rng.integers(len(data))])
            for place in rng.integers(0, max(len(damaged), 1), 3 if damaged else 0):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(ImageError):  # some damage leaves an image
                assert central_square(read_image(path), 8).shape == (8, 8, 3)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("blue", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (np.asarray(read_image(tmp_path / "a.gif")) == (0, 0, 255)).all()


@pytest.mark.parametrize(
    ("mode", "color", "ending", "expected"),
    [
        ("RGBA", (9, 9, 9, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "png", (204, 204, 204)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("L", 7, "png", (7, 7, 7)),
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tiff", (255, 0, 0)),
        ("I;16", 257 * 100, "png", (100, 100, 100)),
        ("I", 257 * 100, "tiff", (100, 100, 100)),
        ("F", 0.2, "tiff", (51, 51, 51)),
        ("F", 200.0, "tiff", (200, 200, 200)),
        ("F", float("nan"), "tiff", (0, 0, 0)),
        ("F", 300.0, "tiff", (0, 0, 0)),
    ],
)
def test_all_modes_become_8_bit_rgb_on_white(tmp_path, mode, color, ending, expected):
    image = read_image(picture(tmp_path / f"a.{ending}", color, mode=mode))
    assert image.mode == "RGB"
    assert (np.asarray(image) == expected).all()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint16", 0, 65535), ("int32", 0, 65535), ("int32", -(2**20), 2**20), ("float32", 0, 1),
     ("float32", 0, 255), ("float32", -3, 5000)],
)  # fmt: skip
def test_a_gray_ramp_of_more_than_8_bits_keeps_its_levels(tmp_path, dtype, low, high):
    ramp = np.linspace(low, high, 64).astype(dtype)[None].repeat(64, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    pixels = np.asarray(read_image(tmp_path / "a.tiff"))
    assert len(np.unique(pixels)) == 64
    assert pixels.mean() == pytest.approx(127.5, abs=0.5)


def test_the_central_square_upright(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (central_square(read_image(tmp_path / "a.png"), 64) == 200).all()
    image = Image.fromarray(np.arange(64, dtype=np.uint8)[:, None].repeat(64, 1))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "b.png", exif=exif)
    assert central_square(read_image(tmp_path / "b.png"), 64)[0, 0].tolist() == [63] * 3


def test_a_photo_of_108_megapixels_is_taken(model, tmp_path):
    picture(tmp_path / "a.jpg", (0, 0, 255), size=(12_000, 9_000))
    assert read_image(tmp_path / "a.jpg", draft=128).size == (1500, 1125)
    assert classify(model, WORDS, tmp_path / "a.jpg", top=1)["words"].tolist() == ["blue"]


@pytest.mark.parametrize("side", [15_000, 30_000])  # above our limit, and above twice that
def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path, side):
    path = picture(tmp_path / "a.bmp", size=(1, 1))
    data = bytearray(path.read_bytes())
    data[18:26] = np.array([side, side], "<i4").tobytes()  # width and height in the header
    path.write_bytes(data)
    with pytest.raises(
        ImageError, match=r"a.bmp is too large: more than 200,000,000 pixels. Scale"
    ):
        read_image(path)


def test_hidden_and_empty_files(model, tmp_path):
    for name in (".DS_Store", "a.png"):
        (tmp_path / name).touch()
    (row,) = classify(model, WORDS, tmp_path).to_dict("records")
    assert (row["file"], row["words"]) == ("a.png", f"{tmp_path}/a.png is an empty file.")


@pytest.mark.parametrize("missing", ["no such file", "cut off", "nothing in the folder"])
def test_what_cannot_be_read(model, tmp_path, missing):
    path, says = tmp_path / "a.png", "a.png cannot be read: .*No such file"
    if missing == "cut off":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:2000])
        says = "a.png cannot be read: .*truncated"
    elif missing == "nothing in the folder":
        path, says = tmp_path, "holds no files"
    with pytest.raises(ImageError, match=says):
        classify(model, WORDS, path)


def test_kept_networks_by_name():
    with pytest.raises(ValueError, match="with kept weights: .*simple-tuned.* Received: 'simpel'"):
        load_classifier("simpel")
    with pytest.raises(ValueError, match="must be a classification run") as error:
        load_classifier("localization-simple-seed0")  # kept, but without words
    assert "localization" not in str(error.value).split("Received")[0]
    network, words = load_classifier("simple-tuned-20ep-seed0")
    assert network.output_shape == (None, 200)
    assert len(words) == 200
    assert {type(word) for word in words} == {str}


def test_a_run_whose_predictions_are_beside_its_result(tmp_path):
    name = "simple-tuned-20ep-seed0"
    (tmp_path / name).mkdir()
    shutil.copy(f"report/weights/{name}.keras", tmp_path / name / "model.keras")
    _, words = load_classifier(str(tmp_path / name))
    assert len(words) == 200
    (tmp_path / name).rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match="renamed has no predictions"):
        load_classifier(str(tmp_path / "renamed"))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("height", "width"), [(384, 512), (512, 384)])
def test_geometry_of_the_central_square(tmp_path, height, width):
    """Ramps of half a level per pixel: 512x384 becomes 341x256, of which 58...282 and 16...240."""
    rows, columns = np.mgrid[:height, :width] / 2
    pixels = np.stack([columns, rows, np.full(rows.shape, 7)], axis=-1)
    image = read_image(save(tmp_path / "ramp.png", pixels))
    image = resized_center_crop(image, 256, 224).astype(float)
    assert image.shape == (224, 224, 3)
    left, top = (58, 16) if width > height else (16, 58)
    scale = 512 / 341 if width > height else 1.5
    x = ((np.arange(224) + left + 0.5) * scale - 0.5) / 2
    scale = 512 / 341 if height > width else 1.5
    y = ((np.arange(224) + top + 0.5) * scale - 0.5) / 2
    assert np.abs(image[..., 0] - x).max() <= 1
    assert np.abs(image[..., 1] - y[:, None]).max() <= 1
    assert (image[..., 2] == 7).all()


def test_the_longer_side_is_that_of_torchvision():
    image = resized_center_crop(Image.new("RGB", (322, 161), "white"), 256, 512)
    assert (image[256] == 255).all()  # 512 pixels wide, and not 511


def test_scaling_is_that_of_torchvision(tmp_path):
    """torchvision scales tensors with this function of PyTorch, antialiased like Pillow."""
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    image = read_image(save(tmp_path / "noise.png", pixels))
    image = resized_center_crop(image, 256, 224).astype(float)
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype("float32"))
    x = torch.nn.functional.interpolate(x, size=(256, 341), mode="bilinear", antialias=True)
    expected = x.numpy()[0].transpose(1, 2, 0)[16:240, 58:282]
    assert np.abs(image - expected).max() <= 1.01


@pytest.fixture
def by_color():
    """Predicts 0, 1 or 2 for mostly red, green or blue, and never one of its other classes."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = keras.layers.Dense(6, kernel_initializer="zeros")(x)
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.eye(3, 6), np.array([0, 0, 0, -1, -2, -3])])
    return model


def test_accuracy_over_a_folder(tmp_path, by_color):
    colors = {"a": [0, 0, 1], "b": [1], "c": [2, 2, 2], "d": [0], "e": [1], "f": [2]}
    for name, shown in colors.items():
        for number, color in enumerate(shown):
            pixels = np.zeros((20, 10 + number, 3))
            pixels[..., color] = 200
            save(tmp_path / name / "images" / f"{number}.JPEG", pixels)
    (tmp_path / "a" / "list.txt").write_text("not an image")
    found = evaluate_folder(by_color, tmp_path, batch_size=4, resize=9)
    # One "a" is green, and d, e and f are never predicted; f alone is not in the top 5.
    assert found == {"top1": 0.6, "top5": 0.9, "images": 10}
    save(tmp_path / "a" / "masks" / "0.png", np.zeros((20, 20)))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "a" / "._0.png").write_bytes(b"left behind by macOS")
    assert evaluate_folder(by_color, tmp_path)["images"] == 11
    assert evaluate_folder(by_color, tmp_path, pattern="images/*")["images"] == 10


def test_folders_must_fit_the_classes(tmp_path, by_color):
    save(tmp_path / "a" / "0.png", np.zeros((9, 9, 3)))
    with pytest.raises(ValueError, match="each of the model's 6 classes. Received: 1"):
        evaluate_folder(by_color, tmp_path)
    for name in "bcdef":
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has no images in b, c, d, e, f"):
        evaluate_folder(by_color, tmp_path)
    with pytest.raises(ValueError, match=r"at least the model's \d+ pixels. Received: 2"):
        evaluate_folder(by_color, tmp_path, resize=2)


def test_a_damaged_image_in_a_folder_is_named(tmp_path, by_color):
    for name in "abcdef":
        save(tmp_path / name / "0.png", np.random.default_rng(0).integers(0, 256, (30, 30, 3)))
    path = tmp_path / "d" / "0.png"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="d/0.png cannot be read: .*truncated"):
        evaluate_folder(by_color, tmp_path)
