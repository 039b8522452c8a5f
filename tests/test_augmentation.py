import numpy as np
import pytest
from PIL import Image

from utils.data.augmentation import (
    crop_and_flip,
    crop_and_flip_boxes,
    crop_and_resize,
    draw_crops_and_flips,
    draw_cuts,
    draw_resized_crops,
    mix_images,
    mix_labels,
)


def moves(rows, columns, flipped):
    return np.array([[rows], [columns]]), np.array([flipped])


def test_crops_and_flips_are_those_of_a_reflected_border():
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)
    drawn = draw_crops_and_flips(32, 64, np.random.RandomState(3))
    augmented = crop_and_flip(images, *drawn)
    padded = np.pad(images, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="reflect")
    offsets, flipped = drawn
    for i, source in enumerate(padded):
        top, left = offsets[:, i] + 8
        crop = source[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(augmented[i], crop[:, ::-1] if flipped[i] else crop)
    assert 8 <= flipped.sum() <= 24
    assert len(set(map(tuple, offsets.T))) > 20
    assert (offsets.min(), offsets.max()) == (-8, 8)


def test_crops_are_in_proportion_to_the_images():
    offsets, _ = draw_crops_and_flips(500, 224, np.random.RandomState(0))
    assert (offsets.min(), offsets.max()) == (-28, 28)


def test_resized_crops_are_those_of_pillow():
    images = np.random.default_rng(0).integers(0, 256, (32, 48, 48, 3), np.uint8)
    crops, flipped = draw_resized_crops(32, 48, 0.25, np.random.RandomState(3))
    resized = crop_and_resize(images, crops, flipped)
    for image, (top, left, height, width), flip, ours in zip(
        images, crops.T, flipped, resized, strict=True
    ):
        part = Image.fromarray(image[top : top + height, left : left + width])
        theirs = np.array(part.resize((48, 48), Image.Resampling.BILINEAR))
        theirs = theirs[:, ::-1] if flip else theirs
        assert np.abs(theirs.astype(int) - ours).max() <= 2  # they round sooner
    assert 8 <= flipped.sum() <= 24


def test_a_crop_of_all_is_the_image():
    images = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8)
    crops = np.array([[0, 0], [0, 0], [7, 7], [7, 7]])
    resized = crop_and_resize(images, crops, np.array([False, True]))
    np.testing.assert_array_equal(resized, [images[0], images[1][:, ::-1]])


def test_resized_crops_show_the_least_area_and_more():
    crops, _ = draw_resized_crops(2000, 64, 0.25, np.random.RandomState(0))
    tops, lefts, heights, widths = crops
    assert crops.shape == (4, 2000)
    assert crops.dtype == np.int32
    areas = heights * widths / 64**2
    assert areas.min() == pytest.approx(0.25, abs=0.02)
    assert areas.max() == 1
    assert np.mean(areas) == pytest.approx(0.61, abs=0.01)  # 0.625, less what is cut off
    ratios = (widths / heights)[np.maximum(heights, widths) < 64]
    assert 0.72 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.39
    for starts, sides in ((tops, heights), (lefts, widths)):
        assert starts.min() == 0
        assert (starts + sides).max() == 64
        small = sides < 40
        assert len(set(starts[small])) > 24


def test_mixed_images_have_their_labels_in_proportion():
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])
    # top, left, bottom, right: 8 of 64 pixels, 48 of them; the third one has no neighbor
    cuts = np.array([[0, 0, 0], [6, 0, 0], [4, 8, 8], [8, 6, 4]])
    mixed = mix_images(images, cuts)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[0, :4, 6:], 20)
    np.testing.assert_array_equal(mixed[1, :, :6], 10)
    own = np.array([10, 20, 30], np.uint8)[:, None, None, None]
    assert (mixed == own).all(axis=3).sum(axis=(1, 2)).tolist() == [56, 16, 64]
    labels = mix_labels(np.array([1, 2, 3]), cuts, 8)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1, 2, 8 / 64], [1, 2, 16 / 64], [3, 3, 0.5]])


def test_cuts_have_any_area_and_end_at_the_border():
    top, left, bottom, right = draw_cuts(4000, 64, 0.5, np.random.RandomState(0))
    areas = (bottom - top) * (right - left) / 64**2
    assert np.mean(areas > 0) == pytest.approx(0.5, abs=0.03)
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 64
    assert areas.max() > 0.9
    # A square of area a around any pixel shows, of each side s = sqrt(a), s - s * s / 4.
    assert np.mean(areas[areas > 0]) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_masks_move_like_images():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
    drawn = draw_crops_and_flips(4, 16, np.random.RandomState(1))
    moved = crop_and_flip(images, *drawn)
    masks = crop_and_flip(images[..., 0].copy(), *drawn)
    np.testing.assert_array_equal(masks, moved[..., 0])


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ((0, 0, False), [8, 16, 24, 48]),
        ((0, 0, True), [40, 16, 56, 48]),
        ((5, -3, False), [11, 11, 27, 43]),  # five up, three to the right
        ((5, -3, True), [37, 11, 53, 43]),
        ((0, 8, False), [0, 16, 16, 48]),  # to the very border
        ((-8, 8, False), [0, 24, 16, 56]),
    ],
)
def test_a_box_stays_around_its_object(move, expected):
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 16:48, 8:24] = 1
    box = np.float32([[8, 16, 24, 48]]) / 64
    moved = crop_and_flip_boxes(box, *moves(*move), 64)[0] * 64
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    rows, columns = np.nonzero(crop_and_flip(mask, *moves(*move))[0])
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved, edges, atol=1e-5)


def test_what_leaves_the_image_is_cut_off():
    box = np.float32([[0, 60, 4, 64]]) / 64
    moved = crop_and_flip_boxes(box, *moves(-6, 2, False), 64)[0] * 64
    np.testing.assert_allclose(moved, [0, 64, 2, 64])  # all of it below the border
    flipped = crop_and_flip_boxes(box, *moves(0, 2, True), 64)[0] * 64
    np.testing.assert_allclose(flipped, [62, 60, 64, 64])
