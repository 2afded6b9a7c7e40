"""Arrays in a temporary file: read back as they were, from threads too; a full disk is told."""

import errno
import gc
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.storage import ArrayFile


def test_arrays_come_back_as_they_were():
    rng, file = np.random.default_rng(0), ArrayFile()
    arrays = [
        rng.normal(size=(3, 4, 2)).astype(np.float16),
        np.zeros((0, 5), np.uint8),
        np.asfortranarray(rng.integers(0, 9, (6, 7))),
        np.array(3.0),
    ]
    stored = [file.append(array) for array in arrays]
    for array, entry in reversed(list(zip(arrays, stored, strict=True))):
        found = entry.read()
        assert found.dtype == array.dtype and np.array_equal(found, array)


def test_threads_share_a_file():
    file = ArrayFile()

    def write_and_read(number: int) -> bool:
        array = np.full((50, 50), number, np.int32)
        return all(np.array_equal(file.append(array).read(), array) for _ in range(5))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write_and_read, range(64)))


def test_the_file_has_no_name_and_goes_with_its_last_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = ArrayFile()
    stored = file.append(np.arange(9))
    assert list(tmp_path.iterdir()) == []
    handle = file._file
    del file
    gc.collect()
    assert np.array_equal(stored.read(), np.arange(9)), "an array keeps its file open"
    del stored
    gc.collect()
    assert handle.closed


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    file = ArrayFile()

    class Full:
        def seek(self, *place):
            return 0

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file, "_file", Full())
    with pytest.raises(UserError, match=r"No space left.*TMPDIR") as caught:
        file.append(np.zeros(3))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="missing"):
        ArrayFile()
