import keras
import numpy as np
import pytest
from PIL import Image

from utils.analysis.classify import ImageError, classify, load_classifier, read_image

WORDS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def model():
    """Calls an image by its strongest colour; the surer, the purer."""
    inputs = keras.Input((64, 64, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Rescaling(1 / 25.5)(mean))


def picture(path, color=(255, 0, 0), size=(80, 100), mode="RGB", **options):
    Image.new(mode, size, color).save(path, **options)
    return path


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
    assert table["file"].tolist() == ["a.txt", "b.jpg", "c.png"]
    assert table["rank"].tolist() == [0, 1, 1]
    assert table["words"][0].endswith("a.txt is not an image that Pillow can read.")
    assert table["words"].tolist()[1:] == ["blue", "red"]


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("blue", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == (0, 0, 255)).all()


def test_modes_become_rgb_and_what_is_transparent_white(tmp_path):
    assert (read_image(picture(tmp_path / "a.png", (9, 9, 9, 0), mode="RGBA")) == 255).all()
    assert (read_image(picture(tmp_path / "b.png", 7, mode="L")) == 7).all()


def test_the_central_square_upright(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 200).all()
    image = Image.fromarray(np.arange(64, dtype=np.uint8)[:, None].repeat(64, 1))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "b.png", exif=exif)
    assert read_image(tmp_path / "b.png")[0, 0].tolist() == [63] * 3


def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path):
    path = picture(tmp_path / "a.bmp", size=(1, 1))
    data = bytearray(path.read_bytes())
    data[18:26] = np.array([12_000, 12_000], "<i4").tobytes()  # width and height in the header
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a.bmp is too large: .*144000000 pixels.*Scale it down"):
        read_image(path)


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
    network, words = load_classifier("simple-tuned-8ep-seed0")
    assert network.output_shape == (None, 200)
    assert len(words) == 200
