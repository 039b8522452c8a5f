"""Files and messages are TensorFlow's, byte by byte; no damage goes unnoticed."""

import pytest
import tensorflow as tf

from utils.tfrecord import DamagedRecord, Example, read_records, write_record

RECORDS = [b"one", bytes(range(256)) * 300]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


def test_files_are_those_of_tensorflow(file, tmp_path):
    assert list(read_records(file)) == RECORDS
    with (tmp_path / "ours").open("wb") as ours:
        for record in RECORDS:
            write_record(ours, record)
    assert (tmp_path / "ours").read_bytes() == file.read_bytes()


def test_examples_are_those_of_tensorflow():
    feature = {
        "bytes": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"", b"\xff"])),
        "floats": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1, -2.5])),
        "integers": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, -1, 2**40])),
    }
    theirs = tf.train.Example(features=tf.train.Features(feature=feature))
    ours = Example()
    ours.features.feature["bytes"].bytes_list.value.extend([b"", b"\xff"])
    ours.features.feature["floats"].float_list.value.extend([0.1, -2.5])
    ours.features.feature["integers"].int64_list.value.extend([1, -1, 2**40])
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )
    assert Example.FromString(theirs.SerializeToString()) == ours


def test_damage_is_named_with_its_place(file):
    content = file.read_bytes()
    for position in (*range(19), len(content) - 1):  # all of the first record, the last checksum
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        start = 0 if position < 19 else 19
        with pytest.raises(DamagedRecord, match=f"{file} is damaged or cut off at byte {start}$"):
            list(read_records(file))
    for length in (1, 8, 12, 15, 18, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(DamagedRecord, match="is damaged or cut off at byte"):
            list(read_records(file))
