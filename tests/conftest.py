import pytest
from layouts import sample_files

from utils.data.prepare import prepare_dataset


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Folder of TFRecords of a small tiny-shapes: 24 classes, 12 and 4 images each."""
    folder = tmp_path_factory.mktemp("data") / "tiny-shapes"
    prepare_dataset("tiny-shapes", folder, train_per_class=12, validation_per_class=4)
    return folder


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "tiny"
    for name, data in sample_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
