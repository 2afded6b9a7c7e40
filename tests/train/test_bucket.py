"""What the training itself writes to `gs://`: rows, curves, weights; against a bucket in memory."""

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train import journal


class Bucket(MemoryFileSystem):
    """Whose files cannot grow, as those of a bucket."""

    store: dict = {}
    pseudo_dirs = [""]

    def open(self, path, mode="rb", **options):
        assert "a" not in mode
        if "forbidden" in path:
            raise PermissionError("not yours")
        return super().open(path, mode, **options)


@pytest.fixture
def bucket():
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    return epath.Path("gs://bucket/run")


class Board:
    """In place of TensorBoard's writer, which has a client of its own for buckets."""

    def __init__(self, path: str):
        assert path == "gs://bucket/run/tensorboard/events"

    def write_event(self, event) -> None:
        pass

    def flush(self) -> None:
        pass


def test_a_journal_in_a_bucket_goes_on(bucket, monkeypatch):
    monkeypatch.setattr(journal, "EventsWriter", Board)
    first = journal.Journal(bucket, 0)
    for step in (1, 2, 3):
        first.write("train", step, {"loss": 1 / step})
    second = journal.Journal(bucket, 2)
    second.write("train", 3, {"loss": 7.0})
    second.plot({"loss": ["train/loss"], "score": []})
    rows = journal.read_rows(bucket / "metrics.jsonl")
    assert [row["loss"] for row in rows] == [1.0, 0.5, 7.0]
    assert (bucket / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_is_uploaded_whole_or_not_at_all(bucket):
    path = bucket / "weights.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(np.arange(3, dtype=np.uint8).tobytes())
        assert not path.exists()
    assert path.read_bytes() == b"\x00\x01\x02"
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"\x00\x01\x02"
    with (
        pytest.raises(UserError, match="Cannot write gs://bucket/run/forbidden"),
        replacing(bucket / "forbidden") as temporary,
    ):
        temporary.write_bytes(b"")
