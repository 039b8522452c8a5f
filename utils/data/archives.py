"""Read the files of a dataset archive in place: zip, tar, extracted folder or URL.

Whatever the kind, an `Archive` gives `names()` and `read(name)`, in any order and from any thread,
with names relative to the dataset's root. A zip and a folder are read where they are. A tar cannot
be read at random: it is copied once, front to back, into a single scratch file with an index of
offsets.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from utils.files import file_sha256
from utils.progress import Bar

# Where downloads are kept: Keras' own cache.
DOWNLOAD_CACHE = os.environ.get("KERAS_HOME", "~/.keras")

REMEDY = "choose another folder"  # where a disk is full

# Left behind by systems and tools, in lower case; so is whatever begins with a dot.
_SYSTEM_FILES = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found")
_OPENERS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # an unknown compression method
    OSError,  # of bz2 and gzip
)


class DatasetError(ValueError):
    """The dataset cannot be used as it is; the message names the file and the remedy."""


def check_disk(folder: Path, needed: int, remedy: str) -> None:
    """Refuses to write `needed` bytes where they have no room; `remedy` is what else helps."""
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # a total of 0: the drive does not tell
        raise DatasetError(
            f"The disk of {folder} is full: {usage.free / 1e6:.0f} MB are free and about "
            f"{needed / 1e6:.0f} MB needed; free disk space or {remedy}."
        )


class Member(NamedTuple):
    """One file (or, with a trailing slash, folder) of an archive."""

    name: str
    size: int  # bytes
    handle: Any  # what its archive's reader takes


class Archive:
    """The files of one dataset, by name relative to the folder that holds `marker`.

    What operating systems leave behind is not listed; with a marker neither is what is in `test/`.

    Args:
        path: the archive's own path, for messages.
        members: all its members, with names as the archive has them.
        read: returns the bytes of a member's handle.
        marker: name of a file that the dataset's root holds; None: the root is that of the archive.

    Raises:
        DatasetError: unsafe or duplicate names, or no single root.
    """

    def __init__(
        self, path: str | os.PathLike, members: list[Member], read: Callable, marker: str | None
    ) -> None:
        self.path = path
        self._read = read
        files: dict[str, Member] = {}
        for member in members:
            name = _safe_name(path, member.name)
            if is_system_file(name):
                continue
            if name in files and not name.endswith("/"):
                raise DatasetError(f"{path}: {name} occurs twice; pass a clean archive.")
            files[name] = member
        self._files = files if marker is None else self._within_root(files, marker)

    def _within_root(self, files: dict[str, Member], marker: str) -> dict[str, Member]:
        roots = {posixpath.dirname(name) for name in files if posixpath.basename(name) == marker}
        roots = {root for root in roots if "/" not in root}
        if len(roots) != 1:
            raise DatasetError(
                f"{self.path}: {len(roots)} folders with a {marker} at the top or one level below; "
                "pass an archive or a folder that holds one dataset in Tiny ImageNet's layout."
            )
        root = roots.pop()
        prefix = f"{root}/" if root else ""
        return {
            name[len(prefix) :]: member
            for name, member in files.items()
            if name.startswith(prefix) and not name.startswith(f"{prefix}test/")
        }

    @property
    def size(self) -> int:
        """Bytes of all listed files, unpacked."""
        return sum(member.size for member in self._files.values())

    def size_of(self, name: str) -> int:
        """Bytes of one file, unpacked."""
        return self._files[name].size

    def names(self) -> list[str]:
        """Names of all files, sorted; names of folders, where recorded, end with a slash."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """Returns the bytes of one file.

        Raises:
            DatasetError: the file is missing or damaged.
        """
        if name not in self._files:
            raise DatasetError(f"{self.path}: {name} is missing; pass the complete dataset.")
        try:
            return self._read(self._files[name].handle)
        except _BROKEN as error:
            is_file = isinstance(self._files[name].handle, Path)
            remedy = "replace or remove it" if is_file else "download the archive again"
            raise DatasetError(
                f"{self.path}: {name} cannot be read ({error}); {remedy}."
            ) from error

    def read_text(self, name: str) -> str:
        """Returns the text (UTF-8) of one file; `DatasetError` where it is not."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{self.path}: {name} is not UTF-8 text ({error}); restore the file."
            ) from error


@contextmanager
def open_archive(
    source: str | os.PathLike,
    scratch_dir: str | os.PathLike,
    *,
    sha256: str | None,
    marker: str | None,
) -> Iterator[Archive]:
    """Opens a dataset archive for reading.

    Args:
        source: path of a zip, a tar (also .gz, .bz2 or .xz) or a folder, or a URL of a file.
        scratch_dir: existing folder; a tar leaves one scratch file there, at most.
        sha256: expected hexadecimal digest of the archive; None checks nothing.
        marker: name of a file that the dataset's root holds; see `Archive`.

    Yields:
        The open `Archive`.

    Raises:
        DatasetError: missing, truncated, corrupt or unsafe archive, or another digest.
    """
    path = download(str(source), sha256) if "://" in str(source) else Path(source)
    if not path.exists():
        raise DatasetError(f"{source} does not exist; give the path of the archive or its URL.")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{source} may not be read; check its permissions.")
    if path.is_dir():
        if sha256:
            raise DatasetError(f"{source} is a folder: it has no sha256; leave sha256 empty.")
        yield Archive(source, list(_folder_members(path)), Path.read_bytes, marker)
        return
    if sha256:
        digest = file_sha256(path)
        if digest != sha256.lower():
            raise DatasetError(
                f"{source} has sha256 {digest}, expected {sha256}; download it again or correct "
                "sha256."
            )
    with ExitStack() as stack:
        try:
            members, read = _open_file(source, path, Path(scratch_dir), stack)
        except _BROKEN as error:
            if getattr(error, "errno", None) is not None:  # the disk's, not the archive's
                raise
            raise DatasetError(
                f"{source} is truncated, corrupt or not a zip or tar archive ({error}); download "
                "it again."
            ) from error
        yield Archive(source, members, read, marker)


def _open_file(
    source: str | os.PathLike, path: Path, scratch_dir: Path, stack: ExitStack
) -> tuple[list[Member], Callable]:
    """Returns the members of a zip or tar, and what reads their handles while `stack` is open."""
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == b"PK":
        archive = stack.enter_context(zipfile.ZipFile(path))
        return list(_zip_members(source, archive)), archive.read
    check_disk(scratch_dir, path.stat().st_size, REMEDY)  # what is read is at least as large
    scratch = stack.enter_context((scratch_dir / "tar").open("w+b"))
    with _OPENERS.get(magic, open)(path, "rb") as stream:
        members = list(_tar_members(source, stream, scratch))
    return members, lambda place: os.pread(scratch.fileno(), place[1], place[0])


def download(url: str, sha256: str | None) -> Path:
    """Downloads into Keras' cache; a copy there is used again only if its sha256 is known.

    Args:
        url: of the archive.
        sha256: its digest, hexadecimal, if known.

    Returns:
        Where the file is.

    Raises:
        DatasetError: it was not downloaded, or has another digest.
    """
    import keras  # loads its backend

    cache = Path(DOWNLOAD_CACHE).expanduser()
    target = hashlib.sha256(url.encode()).hexdigest()[:8] + "-" + posixpath.basename(url)[-100:]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        path = keras.utils.get_file(
            target,
            origin=url,
            file_hash=sha256.lower() if sha256 else None,
            hash_algorithm="sha256",
            cache_dir=str(cache),
            force_download=not sha256,
        )
    except Exception as error:  # get_file raises bare Exception
        (cache / "datasets" / target).unlink(missing_ok=True)
        raise DatasetError(
            f"{url} was not downloaded ({error}); check the address, the network, sha256 and the "
            "free disk space, or pass the path of a copy."
        ) from error
    return Path(path)


def _folder_members(path: Path) -> Iterator[Member]:
    def refuse(error: OSError) -> None:
        raise DatasetError(
            f"{path}: {error.filename} cannot be read ({error.strerror}); check its permissions."
        )

    for folder, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        for name in folders:
            link = Path(folder, name)
            if link.is_symlink() and Path(os.path.realpath(folder)).is_relative_to(link.resolve()):
                raise DatasetError(f"{path}: {link} links to a folder that it is in; remove it.")
        relative = Path(folder).relative_to(path).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        yield from (Member(f"{prefix}{name}/", 0, None) for name in folders)
        for name in files:
            file = Path(folder, name)
            if file.exists() and not file.is_file():
                raise _not_a_file(path, prefix + name)
            yield Member(prefix + name, file.stat().st_size if file.exists() else 0, file)


def _zip_members(source: str | os.PathLike, archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _not_a_file(source, info.filename)
        if info.flag_bits & 1:
            raise DatasetError(f"{source}: {info.filename} is encrypted; pass a plain archive.")
        yield Member(info.filename, info.file_size, info)


def _tar_members(
    source: str | os.PathLike, stream: BinaryIO, scratch: BinaryIO
) -> Iterator[Member]:
    """Copies each file of the tar into `scratch`; the handle is its place there."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in Bar(archive, desc="Reading the tar", unit=" files"):
            if info.isdir():
                yield Member(f"{info.name}/", 0, None)
            elif file := archive.extractfile(info) if info.isreg() else None:
                offset = scratch.tell()
                shutil.copyfileobj(file, scratch)
                yield Member(info.name, info.size, (offset, info.size))
            else:
                raise _not_a_file(source, info.name)
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps all headers
        # tarfile takes a truncated or corrupt header for the end: look for the real one, zeros.
        tail = False
        while block := archive.fileobj.read(tarfile.RECORDSIZE):
            tail = True
            if any(block):
                raise tarfile.ReadError("data after the end of the tar")
        if not tail:
            raise tarfile.ReadError("the end of the tar is missing")
    scratch.flush()


def _not_a_file(source: str | os.PathLike, name: str) -> DatasetError:
    return DatasetError(f"{source}: {name} is a link or a device; pass an archive of files only.")


def _safe_name(path: str | os.PathLike, name: str) -> str:
    readable = name.encode(errors="backslashreplace").decode()
    if readable != name:
        raise DatasetError(f"{path}: the name {readable} is not UTF-8; rename it.")
    name = name.replace("\\", "/")  # of zips that some Windows tools write
    if name.startswith("/") or ".." in name.split("/"):
        raise DatasetError(f"{path}: {name} points outside of the archive; do not use this file.")
    return posixpath.normpath(name) + "/" * name.endswith("/")


def is_system_file(name: str) -> bool:
    """Whether a path is, or is in, something hidden or left behind by an operating system."""
    return any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in name.split("/"))
