"""Videos as elements of a Beam pipeline, with the direct runner."""

import json
import shutil

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from oclr_jax import batch
from oclr_jax.batch import DONE, FAILED, KEPT
from oclr_jax.errors import SomeFailed
from tests.clips import motion_segmenter, moving_clip, write_frames
from tests.video.videos import write_video

pytest.importorskip("apache_beam", reason="needs the extra `beam`")
# Beam's own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def beam(monkeypatch):
    from launch.cluster import segment_beam

    monkeypatch.setattr(batch, "load_segmenter", lambda *_: motion_segmenter())
    monkeypatch.setattr(segment_beam, "PAUSES", (0.0, 0.0))
    return segment_beam


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", moving_clip(6))
    write_frames(folder / "b", moving_clip(4))
    (folder / "c.mp4").write_text("no video")
    return folder


def lines(output) -> dict[str, dict]:
    found = [json.loads(line) for line in (output / "outcomes.jsonl").read_text().splitlines()]
    return {line["video"].rpartition("/")[2]: line for line in found}


def test_each_video_is_an_element_and_the_same_command_goes_on(beam, videos, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--videos", f"{videos}/*", "--output", str(out), "--no-overlay", "--export", "npz"]
    with pytest.raises(SomeFailed, match="1 of 3"):
        beam.main([*command, "--", "--runner", "DirectRunner"])
    assert {name: line["state"] for name, line in lines(out).items()} == {
        "a.mp4": DONE,
        "b": DONE,
        "c.mp4": FAILED,
    }
    assert "Cannot read" in lines(out)["c.mp4"]["error"]
    assert "3 videos: 2 done, 1 failed" in capsys.readouterr().out
    with np.load(out / "a" / "exports" / "masks.npz") as arrays:
        assert arrays["masks"].shape == (6, 64, 96)
    before = (out / "a" / "objects.json").stat().st_mtime_ns
    shutil.rmtree(out / "b")
    (videos / "c.mp4").unlink()
    beam.main(command)
    assert {name: line["state"] for name, line in lines(out).items()} == {"a.mp4": KEPT, "b": DONE}
    assert (out / "a" / "objects.json").stat().st_mtime_ns == before


def test_only_failures_that_may_pass_are_tried_again(beam, videos, tmp_path, monkeypatch):
    real, tries = batch.segment_into, []

    def fail_twice(folder, output, input, *more, **options):
        tries.append(str(input))
        if str(input).endswith("a.mp4") and len(tries) <= 2:
            (folder / "masks").mkdir()
            raise OSError(5, "the network is down", str(input))
        return real(folder, output, input, *more, **options)

    monkeypatch.setattr(batch, "segment_into", fail_twice)
    found = beam.list_videos(f"{videos}/*.mp4", str(tmp_path / "out"))
    outcomes = beam.run(found, str(tmp_path / "out"), {"refine": ()}, [], pauses=(0.0, 0.0))
    assert [outcome.state for outcome in outcomes] == [DONE, FAILED]
    assert [name.rpartition("/")[2] for name in tries] == ["a.mp4"] * 3 + ["c.mp4"]
    assert not list((tmp_path / "out").rglob(".oclr*")), "nothing half-written"


def test_a_failure_that_does_not_pass_is_an_outcome(beam, videos, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "the network is down", "file")

    monkeypatch.setattr(batch, "segment_into", fail)
    found = beam.list_videos(f"{videos}/a.mp4", str(tmp_path / "out"))
    (outcome,) = beam.run(found, str(tmp_path / "out"), {"refine": ()}, [], pauses=(0.0,))
    assert outcome.state == FAILED and outcome.error == "file: the network is down."


def test_videos_and_results_in_buckets(beam, videos, tmp_path):
    """A file system in memory stands in for the bucket."""

    class Bucket(MemoryFileSystem):
        store: dict = {}
        pseudo_dirs = [""]

        def glob(self, path, **options):
            # As gcsfs does, without the protocol.
            return [found.removeprefix("gs://") for found in super().glob(path, **options)]

    fsspec.register_implementation("gcs", Bucket, clobber=True)
    bucket = epath.Path("gs://bucket")
    for path in videos.rglob("*.*"):
        (bucket / "videos" / path.relative_to(videos).as_posix()).write_bytes(path.read_bytes())
    found = beam.list_videos("gs://bucket/videos/*.mp4", "gs://bucket/out")
    found |= {"b": "gs://bucket/videos/b"}
    options = {"refine": (), "overlay": False, "export": ["coco"]}
    outcomes = beam.run(found, "gs://bucket/out", options, [], pauses=())
    assert [outcome.state for outcome in outcomes] == [DONE, FAILED, DONE], outcomes
    assert [outcome.video for outcome in outcomes] == list(found.values())
    for name, frame in (("a", "00005"), ("b", "3")):
        assert (bucket / "out" / name / "masks" / f"{frame}.png").exists()
        assert (bucket / "out" / name / "exports" / "coco.json").exists()
    again = beam.run({"a": found["a"]}, "gs://bucket/out", options, [], pauses=())
    assert (again[0].state, again[0].objects) == (KEPT, 2)
