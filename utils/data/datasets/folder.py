"""Pictures in a folder for each class, as Keras' and torchvision's loaders of folders take them.

<class>/**                          pictures of a class, also in folders of its own
train/<class>/**, val/<class>/**    the same with a split; also validation/ or test/

Pictures are of any format, size, mode and orientation that Pillow reads. Without a split a share of
each class is taken for validation. Which pictures depends on their names alone, and hardly changes
when others are added.

Source: keras.utils.image_dataset_from_directory and torchvision.datasets.ImageFolder (layout).
"""

import contextlib
import functools
import hashlib
import io
import posixpath
from collections import Counter, defaultdict

from PIL import ExifTags, Image

from utils.data.archives import Archive, DatasetError
from utils.data.datasets.layout import ImageFile, Layout, Read, UnusableImage, read_file
from utils.data.pictures import ImageError, central_square, read_image
from utils.fields import first_of

FOLDER = "folder"
TRAIN = ("train", "training")
TEST = ("test", "testing")
VALIDATION = ("val", "valid", "validation", *TEST)  # the first of them that is there
SPLIT_SEED = 2012
JPEG_QUALITY = 95  # of pictures that are not stored as they are

Split = dict[str, list[str]]  # the pictures of each class, by name in the archive


def read_folder(source: Archive, *, image_size: int, val_share: float) -> Layout:
    """Lists the pictures of a dataset of class folders.

    Of pictures in a class that are the same, byte for byte, one is taken.

    Args:
        source: the open archive.
        image_size: height and width in the records, in pixels.
        val_share: of each class, where there is no split; at least one picture.

    Returns:
        The layout, complete and consistent. Folder names are the ids of the classes.

    Raises:
        DatasetError: fewer than two classes, a class without a picture or with too few for a split,
            pictures in no class folder, classes that are not those of the other split, or the same
            picture in two classes or splits.
    """
    root = _root(source)
    pictures = {name[len(root) :]: name for name in _pictures(source) if name.startswith(root)}
    names = [name[len(root) :] for name in source.names() if name.startswith(root)]
    found = _splits(source, root, sorted(pictures), names)
    _check_classes(source, found, root)
    digests = _digests(source, list(pictures.values()))
    contents = {path: digests.get(name, name) for path, name in pictures.items()}
    splits = {split: _without_copies(classes, contents) for split, classes in found.items()}
    _check_same(source, splits, contents)
    _report(source, _count(found) - _count(splits))
    if len(splits) == 1:
        splits = _divide(source, splits["train"], val_share)
    return Layout(
        FOLDER,
        sorted(splits["train"]),
        [name.replace("_", " ") for name in sorted(splits["train"])],
        {
            split: sorted(
                ImageFile(pictures[path], name, path=path)
                for name, paths in classes.items()
                for path in paths
            )
            for split, classes in splits.items()
        },
        image_size,
        functools.partial(read_picture, size=image_size),
        files_sha256(source),
    )


def files_sha256(source: Archive) -> str:
    """The digest of the names and sizes of all pictures."""
    lines = [f"{source.size_of(name)} {name}\n" for name in _pictures(source)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_picture(source: Archive, image: ImageFile, size: int) -> Read:
    """Reads one picture: upright, on white, its central square scaled.

    Args:
        source: the open archive.
        image: what to read.
        size: height and width of the result, in pixels.

    Returns:
        JPEG bytes, as they are if that changes nothing; None; and those bytes decoded.

    Raises:
        UnusableImage: It cannot be read.
    """
    data = read_file(source, image.name)
    try:
        picture = read_image(io.BytesIO(data), draft=2 * size, name=image.name)
    except ImageError as error:
        problem = str(error).rstrip(".")
        raise UnusableImage(f"{source.path}: {problem}; replace or remove it.") from error
    if not _is_ready(data, size):
        file = io.BytesIO()
        square = Image.fromarray(central_square(picture, size))
        square.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        data = file.getvalue()
    decoded = Image.open(io.BytesIO(data))
    decoded.load()
    return data, None, decoded


def _is_ready(data: bytes, size: int) -> bool:
    """Whether a picture is a JPEG that can stand in a record as it is."""
    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        kinds = (image.format, image.size, image.mode in ("RGB", "L"))
        return kinds == ("JPEG", (size, size), True) and upright


@functools.cache
def _endings() -> frozenset[str]:
    """File name endings of what Pillow can read."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN)


def _pictures(source: Archive) -> list[str]:
    return [
        name
        for name in source.names()
        if posixpath.splitext(name)[1].lower() in _endings() and not name.endswith("/")
    ]


def _root(source: Archive) -> str:
    """The folder that holds the class folders or the splits: an archive may have others around."""
    root = ""
    while True:
        inside = [name[len(root) :] for name in source.names() if name.startswith(root)]
        parts = [name.rstrip("/").split("/") for name in inside if "/" in name]
        tops = {part[0] for part in parts}
        pictures = [name[len(root) :] for name in _pictures(source) if name.startswith(root)]
        direct = any(name.count("/") < 2 for name in pictures)
        if len(tops) != 1 or direct:
            return root
        root += f"{tops.pop()}/"


def _splits(source: Archive, root: str, pictures: list[str], names: list[str]) -> dict[str, Split]:
    """The pictures by split and class; of all classes, also those without any."""
    parents = _parents(source, pictures, names)
    found: dict[str, Split] = {split: {} for split in parents}
    stray = []
    for split, parent in parents.items():
        for name in names:
            if name.startswith(parent) and "/" in name[len(parent) :]:
                found[split].setdefault(name[len(parent) :].split("/")[0], [])
        for name in pictures:
            top, slash, _ = name[len(parent) :].partition("/")
            if name.startswith(parent) and slash:
                found[split][top].append(name)
            elif name.startswith(parent):
                stray.append(root + name)
    if stray:
        raise DatasetError(
            f"{source.path}: pictures in no class folder ({len(stray)}): {first_of(stray)}; move "
            "each into the folder of its class."
        )
    return found


def _parents(source: Archive, pictures: list[str], names: list[str]) -> dict[str, str]:
    """The folder of each split, with a slash; of train alone, "" or its own, if there is none."""
    tops = {name.split("/")[0] for name in names if "/" in name}
    train = [name for name in tops if name.lower() in TRAIN]
    others = sorted(
        (name for name in tops if name.lower() in VALIDATION),
        key=lambda name: VALIDATION.index(name.lower()),
    )
    used = {name.split("/")[0] for name in pictures if "/" in name}
    nested = {name.split("/")[0] for name in pictures if name.count("/") > 1}
    if len(train) != 1 or not others or not nested & {*train, *others}:
        _check_names(source, pictures)
        return {"train": ""}
    if beside := used.difference(train, others):
        raise DatasetError(
            f"{source.path}: pictures beside {train[0]}/ and {others[0]}/, in "
            f"{first_of(sorted(beside))}; move these folders away, or, if all of them are classes, "
            "rename those two."
        )
    labeled = [name for name in others if name in nested or name.lower() not in TEST]
    if not labeled:
        print(f"{others[0]}/ has no class folders and is not used.")
        return {"train": f"{train[0]}/"}
    if unused := [name for name in others if name != labeled[0]]:
        print(f"{labeled[0]}/ is the validation set; {', '.join(unused)}/ is not used.")
    return {"train": f"{train[0]}/", "validation": f"{labeled[0]}/"}


def _check_names(source: Archive, pictures: list[str]) -> None:
    """Refuses splits by other names, which would be taken for classes."""
    folders: dict[str, set[str]] = defaultdict(set)
    for top, *_, parent in (name.split("/")[:-1] for name in pictures if name.count("/") > 1):
        folders[top].add(parent)
    for train in sorted(name for name in folders if "train" in name.lower()):
        for other in sorted(folders.keys() - {train}):
            same = sorted(folders[train] & folders[other])
            if len(same) > 1:
                raise DatasetError(
                    f"{source.path}: {train}/ and {other}/ hold the same folders, "
                    f"{first_of(same)}; name the splits train/ and val/."
                )


def _check_classes(source: Archive, found: dict[str, Split], root: str) -> None:
    classes = sorted(found["train"])
    if len(classes) < 2:
        raise DatasetError(
            f"{source.path}{f', {root}' if root else ''}: there must be class folders of pictures, "
            f"at least two. Received: {', '.join(classes) or 'none'}"
        )
    empty = [
        f"{split}/{name}" if len(found) > 1 else name
        for split, names in found.items()
        for name, paths in names.items()
        if not paths
    ]
    if empty:
        raise DatasetError(
            f"{source.path}: class folders without a picture: {first_of(empty)}; put pictures "
            "there or remove the folders."
        )
    common = set.intersection(*(set(names) for names in found.values()))
    for split, names in found.items():
        if missing := sorted(set(names) - common):
            raise DatasetError(
                f"{source.path}: classes in {split} alone: {first_of(missing)}; give both the same "
                "class folders, or leave out the split: then it is made."
            )


def _digests(source: Archive, names: list[str]) -> dict[str, str]:
    """sha256 of the files that have the size of another one; the rest are alone of their kind."""
    sizes = Counter(source.size_of(name) for name in names)
    digests = {}
    for name in names:
        if sizes[source.size_of(name)] > 1:
            with contextlib.suppress(DatasetError):  # said with all others that cannot be read
                digests[name] = hashlib.sha256(source.read(name)).hexdigest()
    return digests


def _without_copies(classes: Split, contents: dict[str, str]) -> Split:
    return {
        name: list({contents[path]: path for path in reversed(paths)}.values())[::-1]
        for name, paths in classes.items()
    }


def _check_same(source: Archive, splits: dict[str, Split], contents: dict[str, str]) -> None:
    """Refuses pictures that are in two classes or in both splits."""
    places = defaultdict(list)
    for classes in splits.values():
        for paths in classes.values():
            for path in paths:
                places[contents[path]].append(path)
    same = [" = ".join(paths) for paths in places.values() if len(paths) > 1]
    if same:
        raise DatasetError(
            f"{source.path}: pictures in two classes or in both splits ({len(same)}): "
            f"{first_of(same)}; keep one of each."
        )


def _divide(source: Archive, classes: Split, share: float) -> dict[str, Split]:
    """Takes a share of each class for validation."""
    if alone := sorted(name for name, paths in classes.items() if len(paths) < 2):
        raise DatasetError(
            f"{source.path}: class folders with one picture: {first_of(alone)}; a class needs two "
            "that differ, one to train on and one to validate with."
        )
    splits: dict[str, Split] = {"train": {}, "validation": {}}
    for name, paths in classes.items():
        number = min(max(1, round(share * len(paths))), len(paths) - 1)
        ordered = sorted(
            paths, key=lambda path: hashlib.sha256(f"{SPLIT_SEED}/{path}".encode()).digest()
        )
        splits["validation"][name], splits["train"][name] = ordered[:number], ordered[number:]
    return splits


def _report(source: Archive, copies: int) -> None:
    """Says which files were left out."""
    known = set(_pictures(source))
    others = [name for name in source.names() if not name.endswith("/") and name not in known]
    endings = Counter(posixpath.splitext(name)[1].lower() or "without ending" for name in others)
    if others:
        kinds = ", ".join(f"{number} {ending}" for ending, number in sorted(endings.items()))
        print(f"Not taken for pictures, by the endings of their names: {kinds}.")
    if copies:
        print(f"Left out as copies of other pictures of their class: {copies}.")


def _count(splits: dict[str, Split]) -> int:
    return sum(len(paths) for classes in splits.values() for paths in classes.values())
