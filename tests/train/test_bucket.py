"""What the training itself writes to `gs://`, against a bucket in memory."""

from collections import Counter

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.record import journal
from oclr_jax.train.record.curves import draw_curves


class Bucket(MemoryFileSystem):
    """A file system whose files cannot grow, as in a bucket; it counts what is uploaded."""

    store: dict = {}
    pseudo_dirs = [""]
    uploaded: Counter = Counter()

    def glob(self, path, **options):
        # As gcsfs does, without the protocol.
        return [found.removeprefix("gs://") for found in super().glob(path, **options)]

    def open(self, path, mode="rb", **options):
        assert "a" not in mode
        if "forbidden" in path:
            raise PermissionError("not yours")
        file = super().open(path, mode, **options)
        if "wb" in mode:
            write = file.write

            def counted(data):
                Bucket.uploaded[path] += len(data)
                return write(data)

            file.write = counted
        return file


@pytest.fixture
def bucket():
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.uploaded.clear()
    return epath.Path("gs://bucket/run")


class Events:
    """Replaces TensorBoard's writer for buckets, which uploads the whole file at a flush."""

    uploaded = 0
    files: list[str] = []

    def __init__(self, prefix: str, suffix: str):
        assert prefix == "gs://bucket/run/tensorboard/events"
        self.size = 0
        Events.files.append(suffix)

    def write_event(self, event) -> None:
        self.size += event.ByteSize()

    def flush(self) -> None:
        Events.uploaded += self.size

    close = flush


@pytest.fixture(autouse=True)
def events(monkeypatch):
    Events.uploaded, Events.files = 0, []
    monkeypatch.setattr(journal, "EventsWriter", Events)


def test_a_journal_in_a_bucket_continues(bucket):
    first = journal.Journal(bucket, 0)
    for step in (1, 2, 3):
        first.write("train", step, {"loss": 1 / step})
    # Killed here: the rows are in a segment.
    assert [row["step"] for row in journal.read_rows(bucket)] == [1, 2, 3]
    second = journal.Journal(bucket, 2)
    second.write("train", 3, {"loss": 7.0})
    assert [row["loss"] for row in journal.read_rows(bucket)] == [1.0, 0.5, 7.0]
    second.close()
    assert [path.name for path in bucket.glob("*.jsonl")] == ["metrics.jsonl"]
    assert [row["loss"] for row in journal.read_rows(bucket)] == [1.0, 0.5, 7.0]


def test_rows_that_a_killed_merge_left_twice_count_once(bucket):
    rows = journal.Journal(bucket, 0)
    for step in (1, 2):
        rows.write("train", step, {"loss": float(step)})
    (bucket / "metrics.jsonl").write_text((bucket / "metrics-000000.jsonl").read_text())
    assert [row["step"] for row in journal.read_rows(bucket)] == [1, 2]


def uploaded_for(bucket, count: int) -> tuple[int, int]:
    """Bytes that a journal of so many rows uploads: rows, events."""
    Bucket.store.clear()
    Bucket.uploaded.clear()
    Events.uploaded = 0
    rows = journal.Journal(bucket, 0)
    for step in range(1, count + 1):
        rows.write("train", step, {"loss": 0.25})
    return sum(Bucket.uploaded.values()), Events.uploaded


def test_what_is_uploaded_grows_with_the_rows_and_not_with_their_square(bucket):
    short, long = uploaded_for(bucket, 200), uploaded_for(bucket, 800)
    assert len(set(Events.files)) == 800 // journal.SEGMENT_ROWS
    for once, four_times in zip(short, long, strict=True):
        assert once > 0 and four_times < 4.5 * once
    row = len(b'{"kind": "train", "step": 800, "loss": 0.25}\n')
    assert long[0] < 800 * row * (journal.SEGMENT_ROWS + 1) / 2 * 1.1


def test_a_file_is_uploaded_completely_or_not_at_all(bucket):
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


def test_curves_of_one_panel_and_of_none_of_the_rows():
    rows = [{"kind": "train", "step": 1, "loss": 2.0}]
    for curves in ({"loss": ["train/loss"]}, {"loss": ["train/loss"], "score": []}):
        assert draw_curves(rows, curves).startswith(b"\x89PNG")
