import pytest

from utils.tiny_imagenet import prepare_dataset


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Folder of TFRecords of a small tiny-shapes: 24 classes, 12 and 4 images each."""
    folder = tmp_path_factory.mktemp("data") / "tiny-shapes"
    prepare_dataset("tiny-shapes", folder, train_per_class=12, validation_per_class=4)
    return folder
