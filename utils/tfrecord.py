"""TFRecord files of `tf.train.Example`, without TensorFlow.

Source: tensorflow/tensorflow, tensorflow/core/lib/io/record_writer.cc (framing and masked checksum)
and tensorflow/core/example/{example,feature}.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_Field = descriptor_pb2.FieldDescriptorProto


class DamagedRecord(ValueError):
    """A file ends within a record, or a checksum is wrong."""


def _example_class() -> Any:
    """The message class `tf.train.Example`, in a pool of its own: TensorFlow registers it too."""
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def message(parent: Any, name: str, **fields: tuple[int, int | str, bool]) -> Any:
        made = parent.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".tensorflow.{kind}"
            else:
                added.type = kind
        return made

    top = file.message_type
    message(top, "BytesList", value=(1, _Field.TYPE_BYTES, True))
    message(top, "FloatList", value=(1, _Field.TYPE_FLOAT, True))
    message(top, "Int64List", value=(1, _Field.TYPE_INT64, True))
    feature = message(
        top,
        "Feature",
        bytes_list=(1, "BytesList", False),
        float_list=(2, "FloatList", False),
        int64_list=(3, "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(top, "Features", feature=(1, "Features.FeatureEntry", True))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        key=(1, _Field.TYPE_STRING, False),
        value=(2, "Feature", False),
    )
    entry.options.map_entry = True
    message(top, "Example", features=(1, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def write_record(file: IO[bytes], record: bytes) -> None:
    """Appends a record to an open file."""
    length = _LENGTH.pack(len(record))
    file.write(length + _checksum(length) + record + _checksum(record))


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    Args:
        path: a TFRecord file without compression.

    Raises:
        DamagedRecord: the file is not whole; names it and the place.
    """
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            start = file.tell() - len(length)
            record = b""
            if file.read(_CHECKSUM.size) == _checksum(length) and len(length) == _LENGTH.size:
                record = file.read(*_LENGTH.unpack(length))
            if not record or file.read(_CHECKSUM.size) != _checksum(record):
                raise DamagedRecord(f"{path} is damaged or cut off at byte {start}")
            yield record


def find_records(path: Path) -> np.ndarray:
    """Where the records of a file are, found by their lengths alone.

    Args:
        path: a TFRecord file without compression.

    Returns:
        int64 (records, 2): the first byte of each and its length.

    Raises:
        DamagedRecord: the file is not whole; names it and the place.
    """
    places, position, end = [], 0, path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while position < end:
            file.seek(position)
            length, checksum = file.read(_LENGTH.size), file.read(_CHECKSUM.size)
            whole = len(checksum) == _CHECKSUM.size and checksum == _checksum(length)
            start, size = position + _LENGTH.size + _CHECKSUM.size, 0
            if whole:
                (size,) = _LENGTH.unpack(length)
            following = start + size + _CHECKSUM.size
            if not whole or following > end:
                raise DamagedRecord(f"{path} is damaged or cut off at byte {position}")
            places.append((start, size))
            position = following
    return np.array(places, np.int64).reshape(-1, 2)


def read_at(path: Path, start: int, length: int) -> bytes:
    """Reads one record.

    Args:
        path: a TFRecord file without compression.
        start: its first byte.
        length: in bytes.

    Raises:
        DamagedRecord: a checksum is wrong; names the file and the place.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = file.read(length + _CHECKSUM.size)
    record = data[:length]
    if len(data) < length + _CHECKSUM.size or data[length:] != _checksum(record):
        raise DamagedRecord(f"{path} is damaged or cut off at byte {start}")
    return record


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of a record's data, as it is stored."""
    crc = google_crc32c.value(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return _CHECKSUM.pack((rotated + 0xA282EAD8) & 0xFFFFFFFF)
