"""Pictures in class folders: what is taken for one, as what, and how often."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from layouts import contents
from pictures import BLUE, RED, converted, picture, refusal, split_of
from PIL import Image, ImageOps

from utils.data.datasets.folder import _endings
from utils.data.pictures import read_image
from utils.data.read_records import read_examples


def exif(orientation):
    tag = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return b"Exif\0\0" + tag


def two_halves(mode="RGB"):
    """Red on the left, blue on the right, twice as wide as high."""
    image = Image.new("RGB", (128, 64), RED)
    image.paste(BLUE, (64, 0, 128, 64))
    return image.convert(mode)


def save_kinds(root):
    """One picture of each kind, most with red on the left and blue on the right."""
    root.mkdir(parents=True)
    for name in ("png", "jpg", "gif", "webp", "bmp", "tiff", "ppm", "jp2", "ico", "tga"):
        two_halves().save(root / f"{name}.{name}")
    two_halves("CMYK").save(root / "cmyk.jpeg", quality=95)
    two_halves("CMYK").save(root / "cmyk.tif")
    two_halves("P").save(root / "palette.PNG")
    two_halves().transpose(Image.Transpose.ROTATE_90).save(
        root / "turned.jpg", exif=exif(6), quality=95
    )
    clear = two_halves("RGBA")
    clear.paste((0, 0, 0, 0), (64, 0, 128, 64))
    clear.save(root / "alpha.png")
    frames = [two_halves(), Image.new("RGB", (128, 64), "black")]
    frames[0].save(root / "animation.gif", save_all=True, append_images=frames[1:])
    gray = np.full((64, 128), 50 * 257, np.uint16)
    gray[:, 64:] = 200 * 257
    Image.fromarray(gray).save(root / "sixteen.png")
    Image.fromarray(gray).save(root / "sixteen.tif")
    two_halves("1").save(root / "one-bit.png")
    two_halves("LA").save(root / "gray-alpha.png")
    return root


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_are_turned_upright(tmp_path, orientation, ending):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8))
    image.save(tmp_path / "a.png", exif=exif(orientation)[6:])
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    image.save(tmp_path / f"b.{ending}", exif=exif(orientation)[6:])
    np.testing.assert_array_equal(read_image(tmp_path / f"b.{ending}"), expected)


def test_an_odd_field_beside_the_orientation_does_no_harm(tmp_path):
    entries = [(0x112, 3, 1, 6), (0x128, 2, 2, ord("2"))]  # a resolution's unit, as text
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    odd = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + tags + bytes(4)
    two_halves().save(tmp_path / "a.jpg", exif=odd)
    assert read_image(tmp_path / "a.jpg").size == (64, 128)


def test_pictures_of_any_kind(tmp_path):
    root = tmp_path / "kinds"
    save_kinds(root / "train" / "a")
    picture(root / "train" / "b" / "x.png", BLUE)
    for i, name in enumerate("ab"):
        picture(root / "val" / name / "v.png", seed=i)
    manifest = converted(root)
    number = len(list((root / "train" / "a").iterdir()))
    assert manifest["class_counts"]["train"] == [number, 1]
    names, images = [], []
    for example in read_examples(tmp_path / "records", manifest, "train"):
        feature = example.features.feature
        names.append(Path(feature["image/filename"].bytes_list.value[0].decode()).name)
        data = feature["image/encoded"].bytes_list.value[0]
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.size) == ("JPEG", (32, 32))
        images.append(np.asarray(image.convert("RGB"), int))
    gray = {"sixteen.png": (50, 200), "sixteen.tif": (50, 200)}
    for name, image in zip(names, images, strict=True):
        left, right = image[:, 4:12].mean((0, 1)), image[:, 20:28].mean((0, 1))
        if name in gray:
            expected = [[value] * 3 for value in gray[name]]
        elif name in ("one-bit.png", "gray-alpha.png"):
            assert np.ptp(left) < 3  # gray
            continue
        elif name == "x.png":
            expected = [BLUE, BLUE]
        else:
            expected = [RED, (255, 255, 255) if name == "alpha.png" else BLUE]
        # CMYK without a profile is brighter or darker than what it was made from; hues stay
        off = 40 if "cmyk" in name else 8
        np.testing.assert_allclose([left, right], expected, atol=off, err_msg=name)


def test_a_jpeg_of_the_right_size_stays_as_it_is(pets, tmp_path):
    kept = picture(pets / "cat" / "k.jpg", size=(32, 32), seed=1, quality=30).read_bytes()
    turned = picture(pets / "cat" / "t.jpg", size=(32, 32), seed=2, exif=exif(6)).read_bytes()
    converted(pets)
    records = b"".join(contents(tmp_path / "records").values())
    assert kept in records
    assert turned not in records


def test_unreadable_pictures_are_listed_all_at_once(pets):
    whole = picture(pets / "dog" / "whole.jpg", size=(200, 200), seed=5).read_bytes()
    (pets / "dog" / "whole.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "text.png").write_text("no picture")
    (pets / "cat" / "empty.gif").touch()
    first, *lines = refusal(pets).splitlines()
    assert first == "3 images cannot be used:"
    remedy = "replace or remove it."
    assert f"{pets}: cat/empty.gif is not an image that Pillow can read; {remedy}" in lines
    assert f"{pets}: cat/text.png is not an image that Pillow can read; {remedy}" in lines
    assert any(line.startswith(f"{pets}: dog/whole.jpg cannot be read: ") for line in lines)


def test_the_list_of_unreadable_pictures_ends(pets):
    for i in range(25):
        (pets / "cat" / f"x{i:02}.png").write_text(f"no picture {i}")
    lines = refusal(pets).splitlines()
    assert len(lines) == 22
    assert lines[0] == "25 images cannot be used:"
    assert lines[-1] == "and 5 more"


def test_what_is_no_picture_is_said(pets, capsys):
    (pets / "cat" / "notes.txt").write_text("x")
    (pets / "README").write_text("x")
    manifest = converted(pets)
    assert manifest["counts"]["train"] + manifest["counts"]["validation"] == 10
    out = capsys.readouterr().out
    assert "Not taken for pictures, by the endings of their names: 1 .txt, 1 without ending." in out
    assert {".heic", ".pdf", ".txt"}.isdisjoint(_endings())


def test_copies_within_a_class_count_once(pets, capsys):
    (pets / "cat" / "copy.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    assert sum(map(sum, converted(pets)["class_counts"].values())) == 10
    assert "Left out as copies of other pictures of their class: 1." in capsys.readouterr().out


def test_one_picture_in_two_classes(pets):
    (pets / "dog" / "x.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    assert refusal(pets) == (
        "pictures in two classes or in both splits (1): cat/0.png = dog/x.png; keep one of each."
    )


def test_one_picture_in_both_splits(pets):
    root = split_of(pets)
    for name in ("a.png", "b.png"):
        (root / "train" / "dog" / name).write_bytes((root / "val/dog/3.png").read_bytes())
    assert refusal(root) == (
        "pictures in two classes or in both splits (1): train/dog/a.png = val/dog/3.png; "
        "keep one of each."
    )
