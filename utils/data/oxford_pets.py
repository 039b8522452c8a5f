"""Oxford-IIIT Pet, from tensorflow-datasets, in Tiny ImageNet's layout: 37 breeds with masks.

Source: Parkhi et al., "Cats and Dogs", CVPR 2012; what a user has of it is
`tfds.load("oxford_iiit_pet")`, whose folder ends in oxford_iiit_pet/<version>.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.archives import DatasetError
from utils.data.tiny_imagenet import IMAGE_SIZE, write_layout

BACKGROUND = 2  # in its trimaps; 1 is the pet and 3 the border between them, counted as pet here
SPLITS = {"train": "train", "test": "val"}  # theirs: ours


def lay_out_pets(source: str | os.PathLike, root: str | os.PathLike) -> Path:
    """Writes the dataset with its images scaled to 64x64, whatever their shape was.

    Args:
        source: Folder of the prepared dataset, with its features.json.
        root: Folder to write into; made if missing.

    Returns:
        `root`, see `utils.data.tiny_imagenet.write_layout`.

    Raises:
        DatasetError: tensorflow-datasets is not installed, or `source` is no such folder.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DatasetError(
            "Reading Oxford-IIIT Pet needs tensorflow-datasets: pip install tensorflow-datasets"
        ) from error
    try:
        builder = tfds.builder_from_directory(source)
        breeds = builder.info.features["label"].names
        examples = {split: builder.as_dataset(split=split) for split in SPLITS}
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{source} is not a prepared oxford_iiit_pet of tensorflow-datasets ({error}). Give "
            "the folder that holds its features.json."
        ) from error
    wnids = [f"pet{index:03d}" for index in range(len(breeds))]

    def images():
        for split, ours in SPLITS.items():
            for number, example in enumerate(examples[split].as_numpy_iterator()):
                wnid = wnids[example["label"]]
                inside = np.uint8(255) * (example["segmentation_mask"][..., 0] != BACKGROUND)
                size = (IMAGE_SIZE, IMAGE_SIZE)
                image = Image.fromarray(example["image"]).resize(size, Image.Resampling.BOX)
                inside = Image.fromarray(inside).resize(size, Image.Resampling.NEAREST)
                yield ours, wnid, f"{wnid}_{ours}_{number}", image, inside

    return write_layout(root, wnids, dict(zip(wnids, breeds, strict=True)), images())
