"""Drawn records in the two layouts in which ImageNet is passed on."""

import io

import numpy as np
from PIL import Image

from utils.tfrecord import Example, write_record

SYNSETS = ["n01", "n02", "n03"]
SIZE = 64  # given to the network


def photo(seed, width=90, height=70, mode="RGB", **options):
    """JPEG bytes of smooth noise, which survives compression."""
    pixels = np.random.RandomState(seed).randint(0, 256, (5, 5, 3), np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def record(jpeg, label, synset=None, theirs=False):
    example = Example()
    feature = example.features.feature
    feature["image" if theirs else "image/encoded"].bytes_list.value.append(jpeg)
    feature["label" if theirs else "image/class/label"].int64_list.value.append(label)
    if synset:
        feature["image/class/synset"].bytes_list.value.append(synset.encode())
    return example.SerializeToString()


def write_shards(folder, train=(6, 5, 7), validation=(4, 3), theirs=False):
    """Writes files with as many records as said, of classes that follow each other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("label.labels.txt" if theirs else "synsets.txt")).write_text("\n".join(SYNSETS))
    seed = 0
    for split, counts in (("train", train), ("validation", validation)):
        for number, count in enumerate(counts):
            stem = f"imagenet2012-{split}.tfrecord" if theirs else split
            with (folder / f"{stem}-{number:05d}-of-{len(counts):05d}").open("wb") as file:
                for _ in range(count):
                    label = seed % 3
                    jpeg = photo(seed, 70 + 5 * (seed % 9), 100 - 4 * (seed % 8))
                    synset = None if theirs else SYNSETS[label]
                    write_record(file, record(jpeg, label + (not theirs), synset, theirs))
                    seed += 1
    return folder
