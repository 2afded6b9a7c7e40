"""Streams: the delay that was stated, masks as of a file, one memory, every way to end."""

import json
import os
import signal
import threading
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from oclr_jax import cli, online
from oclr_jax.errors import UserError
from oclr_jax.export import export_result
from oclr_jax.oclr.online_tracks import OnlineTracker, split_delay
from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.online import segment_online
from oclr_jax.ops.metrics import jaccard
from oclr_jax.results import read_record
from oclr_jax.video.live import LiveFrame, live_frames
from oclr_jax.video.png import read_ids
from tests.clips import motion_segmenter, moving_clip, square_masks, write_frames
from tests.video.videos import encode, write_video


@pytest.fixture(autouse=True)
def motion_model(monkeypatch):
    monkeypatch.setattr(online, "load_segmenter", lambda *_: motion_segmenter())


def play(monkeypatch, frames, before=lambda number: None) -> None:
    """The stream is these frames; `before` is called when the reader asks for a frame."""

    def stream(source, raw):
        for number, image in enumerate(frames):
            before(number)
            yield LiveFrame(number / 25, image)

    monkeypatch.setattr(online, "live_frames", stream)


def masks_of(output) -> np.ndarray:
    return np.stack([read_ids(path) for path in sorted((output / "masks").iterdir())])


def lines_of(output) -> list[dict]:
    return [json.loads(line) for line in (output / "frames.jsonl").read_text().splitlines()]


@contextmanager
def standard_input(content: bytes):
    """Standard input is a pipe with this content."""
    reader, writer = os.pipe()
    kept = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)

    def fill():
        with suppress(BrokenPipeError), os.fdopen(writer, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        thread.join()


@pytest.mark.parametrize("delay", [1, 2, 4, None])
def test_masks_come_with_the_stated_delay(tmp_path, monkeypatch, delay):
    frames, out, late = moving_clip(20), tmp_path / "out", []

    def look(number):
        # Before frame `number` is read, the masks of all frames up to number - 1 - delay are there.
        wanted = number - 1 - (5 if delay is None else delay)
        if wanted >= 0 and not (out / "masks" / f"{wanted:05d}.png").is_file():
            late.append(wanted)
        if wanted >= 0 and len(lines_of(out)) <= wanted:
            late.append(wanted)

    play(monkeypatch, frames, look)
    found = segment_online("-", out, delay=delay)
    assert found == (20, 2, 5 if delay is None else delay, False)
    assert not late
    masks, truth = masks_of(out), square_masks(20)
    for id in (1, 2):
        score = jaccard(masks == id, truth == id)
        assert score.min() > 0.5, f"one id for object {id} in all frames"
    lines = lines_of(out)
    assert [line["frame"] for line in lines] == list(range(20))
    assert lines[3]["time"] == 0.12
    (entry,) = [each for each in lines[9]["objects"] if each["id"] == 2]
    assert entry["depth_rank"] < [e for e in lines[9]["objects"] if e["id"] == 1][0]["depth_rank"]
    assert entry["area"] == (masks[9] == 2).sum()
    assert json.loads((out / "settings.json").read_text())["delay"] == found.delay


def test_delays_that_windows_cannot_have():
    assert split_delay(None, 30, 6, 1) == (27, 24, 3)
    assert split_delay(1, 30, 6, 1) == (1, 1, 0)
    assert split_delay(4, 30, 6, 1) == (4, 2, 2)
    assert split_delay(30, 30, 6, 1) == (30, 27, 3)
    for delay in (0, 31):
        with pytest.raises(UserError, match="choose 1 to 30"):
            split_delay(delay, 30, 6, 1)


def test_a_cut_starts_new_ids_and_every_frame_has_a_mask(tmp_path, monkeypatch):
    # The second shot has a single frame, which has no flow.
    shots = [moving_clip(7), 255 - moving_clip(1, seed=20), moving_clip(8, seed=10)]
    play(monkeypatch, np.concatenate(shots))
    segment_online("-", tmp_path / "out")
    masks = masks_of(tmp_path / "out")
    assert len(masks) == 16 and not masks[7].any()
    assert set(np.unique(masks[:7])) == {0, 1, 2} and set(np.unique(masks[8:])) == {0, 3, 4}


def test_an_object_that_stops_is_found_again(tmp_path, monkeypatch):
    frames = moving_clip(10)
    stopped = [*range(10), *[9] * 12, *range(9, -1, -1)]
    play(monkeypatch, frames[stopped])
    segment_online("-", tmp_path / "out", delay=2)
    masks = masks_of(tmp_path / "out")
    assert not masks[15].any(), "motion is the only cue"
    # Backwards, what was in front of the other layer is now the other layer.
    truth = square_masks(10)[stopped]
    for id in (1, 2):
        assert jaccard(masks[-5:] == id, truth[-5:] == id).min() > 0.5


def test_memory_does_not_grow(tmp_path, monkeypatch):
    frames, peaks = moving_clip(10), []
    turn = [*range(10), *range(8, 0, -1)]
    for count in (12, 30):
        play(monkeypatch, (frames[turn[number % 18]] for number in range(count)))
        tracemalloc.start()
        segment_online("-", tmp_path / f"out{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2 * frames[0].nbytes, f"18 more frames: {peaks}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_and_keeps_all_frames(tmp_path, monkeypatch, capsys, number):
    def send(frame):
        if frame == 9:
            os.kill(os.getpid(), number)

    play(monkeypatch, moving_clip(12), send)
    assert cli.main(["segment", "-", str(tmp_path / "out"), "--online"]) == 0
    text, error = capsys.readouterr()
    assert "was interrupted after 10 frames" in text and "by 5 frames" in error
    masks = masks_of(tmp_path / "out")
    assert len(masks) == 10 and masks[9].any()


def test_a_stream_that_ended_is_a_result(tmp_path, monkeypatch, capsys):
    shots = [moving_clip(7), 255 - moving_clip(1, seed=20), moving_clip(8, seed=10)]
    play(monkeypatch, np.concatenate(shots))
    out = tmp_path / "out"
    segment_online("-", out)
    record = read_record(out)
    assert record["video"]["shots"] == [[0, 6], [7, 7], [8, 15]]
    assert record["video"]["fps"] == pytest.approx(25) and record["video"]["moves"]
    assert [entry["id"] for entry in record["objects"]] == [1, 2, 3, 4]
    assert sorted(entry["depth_rank"] for entry in record["objects"]) == [0, 1, 2, 3]
    export_result(out, ["npz"])
    with np.load(out / "exports" / "masks.npz") as arrays:
        assert np.array_equal(arrays["masks"], masks_of(out))
    assert cli.main(["inspect", str(out)]) == 0
    assert "stream: 96x64, 16 frames, 25 per second, 3 shots" in capsys.readouterr().out
    # A file that is read as a stream is where the record says.
    video = write_video(tmp_path / "clip.mp4", moving_clip(6))
    monkeypatch.setattr(online, "live_frames", live_frames)
    segment_online(video, out, overwrite=True)
    export_result(out, ["gif"])


@pytest.mark.parametrize("container", ["mkv", "ts", "raw"])
def test_standard_input(tmp_path, container):
    frames = moving_clip(8)
    if container == "raw":
        content, raw = frames.tobytes(), ["--raw", "96x64"]
    else:
        encode(tmp_path / f"v.{container}", frames)
        content, raw = (tmp_path / f"v.{container}").read_bytes(), []
    out = tmp_path / "out"
    with standard_input(content):
        assert cli.main(["segment", "-", str(out), "--online", "--refine", "none", *raw]) == 0
    masks = masks_of(out)
    assert len(masks) == 8
    assert jaccard(masks == 1, square_masks(8) == 1).min() > 0.4


def test_a_named_pipe_and_a_stream_that_breaks_off(tmp_path):
    frames = moving_clip(8)
    whole = encode(tmp_path / "v.mkv", frames, codec="mjpeg", pixels="yuvj420p").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes(whole[: len(whole) * 2 // 3]))
    thread.start()
    read = list(live_frames(pipe))
    thread.join()
    assert 2 <= len(read) < 8
    assert np.abs(read[0].image.astype(int) - frames[0]).mean() < 30


def test_bad_streams_are_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def refused(content, *arguments) -> str:
        with standard_input(content):
            status = cli.main(["segment", *(str(each) for each in arguments)])
        text, error = capsys.readouterr()
        assert status == 2 and text == "" and error.endswith(".\n")
        assert not out.exists()
        return error

    assert "cannot be read as a video" in refused(b"no video" * 100, "-", out, "--online")
    mp4 = write_video(tmp_path / "v.mp4", moving_clip(4)).read_bytes()
    assert "before the second frame" in refused(
        moving_clip(1).tobytes(), "-", out, "--online", "--raw", "96x64"
    )
    assert "before the first frame" in refused(b"123", "-", out, "--online", "--raw", "96x64")
    assert "does not exist" in refused(b"", tmp_path / "none", out, "--online")
    frames = write_frames(tmp_path / "f", moving_clip(2))
    assert "is a folder" in refused(b"", frames, out, "--online")
    assert "size of the frames" in refused(b"", "-", out, "--online", "--raw", "0x3")
    assert "choose 1 to 6" in refused(mp4, "-", out, "--online", "--delay", 9)
    assert "add --online" in refused(mp4, "-", out)
    assert "leave out --refine" in refused(mp4, "-", out, "--online", "--refine", "self")
    assert "no folder of flow" in refused(mp4, "-", out, "--online", "--flow", tmp_path)


def test_results_are_replaced_only_on_request(tmp_path, monkeypatch):
    play(monkeypatch, moving_clip(4))
    segment_online("-", tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    play(monkeypatch, moving_clip(2))
    with pytest.raises(UserError, match="--overwrite"):
        segment_online("-", tmp_path / "out")
    assert len(masks_of(tmp_path / "out")) == 4
    segment_online("-", tmp_path / "out", overwrite=True)
    assert len(masks_of(tmp_path / "out")) == 2 and (tmp_path / "out" / "mine.txt").is_file()


def test_ids_are_used_again_when_there_are_no_more():
    tracker, ids = OnlineTracker(), []
    rng = np.random.default_rng(0)
    for shot in range(260):
        probability = np.zeros((1, 8, 8, 1), np.float32)
        probability[:, 2:6, 2:6] = 1
        images = rng.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
        layers = WindowLayers(shot, shot, probability, np.zeros(1, np.float32), images)
        (track,) = tracker.add(layers, range(shot, shot + 1))
        ids.append(track.id)
    assert ids == [*range(1, 256), *range(1, 6)]
