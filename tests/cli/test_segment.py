"""`oclr segment`: what it is given besides the video, what it writes and what it leaves."""

import errno
import json
import os
import signal

import numpy as np
import pytest

from oclr_jax import cli, files, pipeline
from tests.cli.commands import everything, flow_that_fits, refused
from tests.clips import INFO, texture, write_frames


def empty_flow(folder):
    folder.mkdir()


def missing_flow(folder):
    (flow_that_fits(folder) / "Flows_gap1" / "1.flo").unlink()


def other_stems(folder):
    file = flow_that_fits(folder) / "Flows_gap-1" / "3.flo"
    file.rename(file.with_name("30.flo"))


def broken_flow(folder):
    file = flow_that_fits(folder) / "Flows_gap1" / "1.flo"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    "make, says",
    [
        (empty_flow, "Flows_gap"),
        (missing_flow, "does not match"),
        (other_stems, "does not match"),
        (broken_flow, "damaged"),
    ],
)
def test_a_bad_flow_folder(capsys, tmp_path, clip, weights, make, says):
    make(tmp_path / "flow")
    arguments = ("--weights", weights, "--flow", tmp_path / "flow")
    assert says in refused(capsys, tmp_path, "segment", clip, tmp_path / "out", *arguments)


def test_an_unknown_estimator(capsys, tmp_path, clip, weights):
    arguments = ("segment", clip, tmp_path / "out", "--weights", weights, "--flow", "magic")
    assert "The flow folder 'magic' does not exist" in refused(capsys, tmp_path, *arguments)


def test_bad_weights(capsys, tmp_path, clip, weights):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:1000])
    for bad, says in (("no-such-name", "no weights"), (broken, "not a readable safetensors")):
        arguments = ("segment", clip, tmp_path / "out", "--weights", bad)
        assert says in refused(capsys, tmp_path, *arguments)


def test_an_output_in_use(capsys, tmp_path, clip, weights):
    (tmp_path / "file").write_text("mine")
    arguments = ("--weights", weights)
    assert "is a file" in refused(capsys, tmp_path, "segment", clip, tmp_path / "file", *arguments)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "objects.json").write_text("{}")
    error = refused(capsys, tmp_path, "segment", clip, tmp_path / "out", *arguments)
    assert "already has results" in error and "--overwrite" in error


@pytest.mark.parametrize("writer", ["write_png", "write_ids", "video_writer", "json"])
def test_a_full_disk(capsys, tmp_path, clip, weights, monkeypatch, writer):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline, "find_tracks", one_track)
    if writer == "json":
        monkeypatch.setattr(files.json, "dumps", full)
    else:
        monkeypatch.setattr(pipeline, writer, full)
    error = refused(capsys, tmp_path, "segment", clip, tmp_path / "out", "--weights", weights)
    assert "disk is full" in error and str(tmp_path / "out") in error


def one_track(_segmenter, flows):
    from oclr_jax.oclr.strands import WindowLayers
    from oclr_jax.oclr.tracking import link_windows

    count = len(list(flows))
    probability = np.full((count, 32, 48, 1), 0.9, np.float32)
    images = np.zeros((count, 32, 48, 3), np.uint8)
    return link_windows([WindowLayers(0, 0, probability, np.zeros(1), images)]), True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["find_tracks", "_write_frame"])
def test_signals_leave_nothing(capsys, tmp_path, clip, weights, monkeypatch, stage, number):
    monkeypatch.setattr(pipeline, "find_tracks", one_track)
    monkeypatch.setattr(pipeline, stage, lambda *_: os.kill(os.getpid(), number))
    before = everything(tmp_path)
    command = ["segment", str(clip), str(tmp_path / "new" / "out"), "--weights", str(weights)]
    assert cli.main(command) == 128 + number
    assert everything(tmp_path) == before
    assert capsys.readouterr().err.count("\n") == 1


def test_the_whole_path_with_real_weights(capsys, tmp_path, clip, weights):
    command = ["segment", str(clip), str(tmp_path / "out"), "--weights", str(weights)]
    assert cli.main(command) == 0
    out, error = capsys.readouterr()
    assert out.startswith("Moving objects found: ") and out.count("\n") == 1
    assert error == "", "no progress bar where standard error is no terminal"
    record = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert record["settings"]["weights"] == INFO.name
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4
    assert cli.main([*command, "--overwrite", "--quiet", "--no-overlay", "--flow", "dis"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_still_video_says_so(capsys, tmp_path, weights):
    clip = write_frames(tmp_path / "still clip", np.stack([texture(0, 64, 96)] * 4))
    assert cli.main(["segment", str(clip), str(tmp_path / "out"), "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Nothing moves in ") and out.count("\n") == 1
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_results_beside_the_frames_are_no_frames(tmp_path, clip, weights):
    command = ["segment", str(clip), str(clip), "--weights", str(weights), "--overwrite"]
    for _ in range(2):
        assert cli.main(command) == 0
        record = json.loads((clip / "objects.json").read_text())
        assert record["video"]["frames"] == len(list((clip / "masks").iterdir())) == 4
    assert sorted(path.name for path in clip.glob("*.png")) == [f"{n}.png" for n in range(4)]


def test_names_that_are_no_text(capsys, tmp_path, clip, weights):
    """An output may have one, an input not: it is the name of the video in objects.json."""
    output = tmp_path / os.fsdecode(b"\xe9")
    assert cli.main(["segment", str(clip), str(output), "--weights", str(weights)]) == 0
    assert "see " in capsys.readouterr().out
    assert (output / "overlay.mp4").is_file() and (output / "objects.json").is_file()
    clip = clip.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    arguments = ("segment", clip, tmp_path / "out", "--weights", weights)
    assert "not valid UTF-8; rename it" in refused(capsys, tmp_path, *arguments)
