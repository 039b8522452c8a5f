"""Oxford-IIIT Pet in the format of tensorflow-datasets; skipped without that package."""

import numpy as np
import pytest
import tensorflow as tf

from utils.data import pipeline
from utils.data.archives import DatasetError
from utils.data.prepare import prepare_dataset

tfds = pytest.importorskip("tensorflow_datasets")


def pet(number, label, size):
    """A square of 255 at a place of its own, with a border around it in the trimap."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    trimap = np.full((height, width, 1), 2, np.uint8)
    top, left = height // 4, width // 4 * (number % 3)
    trimap[top : top + height // 2, left : left + width // 4] = 3
    trimap[top + 1 : top + height // 2 - 1, left + 1 : left + width // 4 - 1] = 1
    image[trimap[..., 0] != 2] = 255
    return {
        "image": image, "label": label, "species": 0, "file_name": f"pet_{number}",
        "segmentation_mask": trimap,
    }  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """As `tfds.load` leaves it on the disk, of three breeds and in two sizes."""
    sizes = ((128, 128), (96, 160))
    splits = {
        split: [pet(i, i % 3, sizes[i % 2]) for i in range(count)]
        for split, count in (("train", 12), ("test", 6))
    }
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["Abyssinian", "beagle", "boxer"]),
            "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
            "file_name": tfds.features.Text(),
            "segmentation_mask": tfds.features.Image(
                shape=(None, None, 1), encoding_format="png", use_colormap=True
            ),
        }
    )
    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="oxford_iiit_pet", version="4.0.0", features=features, data_dir=folder,
        split_datasets={name: iter_dataset(s) for name, s in splits.items()},
    )  # fmt: skip
    return folder / "oxford_iiit_pet" / "4.0.0"


def iter_dataset(examples):
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8), "label": tf.TensorSpec((), tf.int64),
        "species": tf.TensorSpec((), tf.int64), "file_name": tf.TensorSpec((), tf.string),
        "segmentation_mask": tf.TensorSpec((None, None, 1), tf.uint8),
    }  # fmt: skip
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


def test_pets_become_records(prepared, tmp_path):
    data_dir = tmp_path / "oxford-pets"
    manifest = prepare_dataset("oxford-pets", data_dir, archive=prepared)
    assert manifest["counts"]["train"] == 12
    assert manifest["counts"]["validation"] == 6
    assert manifest["words"] == ["Abyssinian", "beagle", "boxer"]
    assert not manifest["synthetic"]
    (images, masks), *_ = pipeline.evaluation_batches(
        data_dir, manifest, batch_size=6, task="segmentation"
    )
    (_, targets), *_ = pipeline.evaluation_batches(
        data_dir, manifest, batch_size=6, task="localization"
    )
    for image, mask, target in zip(*(x.numpy() for x in (images, masks, targets)), strict=True):
        label, xmin, ymin, xmax, ymax = target
        assert set(np.unique(mask)) == {0, label + 1}
        rows, columns = np.nonzero(mask)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(64 * target[1:], edges)
        inside = image[mask > 0].mean()
        assert inside > 200 > 30 > image[mask == 0].mean()


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="is not a prepared oxford_iiit_pet"):
        prepare_dataset("oxford-pets", tmp_path / "records", archive=tmp_path)
    assert not (tmp_path / "records").exists()
