"""The files that datasets consist of: serialized TFDS examples in array_record files."""

import os
from collections.abc import Iterable

from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

FILE_FORMAT = "array_record"  # TFDS's default would need TensorFlow


class RecordWriter(ExampleWriter):
    """Writes files of records whose bytes depend on the examples alone."""

    def __init__(self):
        super().__init__(file_adapters.FileFormat(FILE_FORMAT))

    def write(self, path: os.PathLike, examples: Iterable[tuple[int, bytes]]) -> None:
        """Writes serialized TFDS examples, given as (key, record), to `path`.

        Raises:
          OSError: they cannot be written, for example because the disk is full.
        """
        try:
            super().write(path, ((key, _in_field_order(record)) for key, record in examples))
        except RuntimeError as error:  # array_record's type for file system errors
            raise OSError(str(error)) from error


def _in_field_order(record: bytes) -> bytes:
    # TFDS orders the fields by a hash that differs between processes.
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
