"""Many videos in one command: one program, failures told at the end, and going on."""

import dataclasses
import json
import shutil

import pytest

from oclr_jax import batch, cli, pipeline
from oclr_jax.batch import DONE, FAILED, KEPT, find_videos, format_outcomes
from oclr_jax.errors import UserError
from tests.clips import motion_segmenter, moving_clip, write_frames
from tests.video.videos import write_video


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Two videos, a folder of frames, and a file that is no video."""
    monkeypatch.setattr(batch, "load_segmenter", lambda *_: motion_segmenter())
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "v2.mp4", moving_clip(6))
    write_video(folder / "v10.mp4", moving_clip(7, 48, 64))
    write_frames(folder / "frames", moving_clip(4))
    (folder / "broken.mp4").write_text("no video")
    (folder / ".hidden.mp4").write_text("no video")
    (folder / "poster.png").write_text("an image")
    return folder


def oclr(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def table(text: str) -> dict[str, list[str]]:
    lines = text.splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines[1:-1]} | {"": lines[-1].split()}


def test_a_failure_does_not_stop_the_others(videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert oclr("segment", f"{videos}/*", out, "--export", "npz", "--no-overlay") == 3
    text, error = capsys.readouterr()
    rows = table(text)
    assert list(rows) == ["broken.mp4", "frames", "v2.mp4", "v10.mp4", ""]
    assert rows["v2.mp4"][:2] == ["6", "2"] and rows["v2.mp4"][-1] == DONE
    assert rows["frames"][:2] == ["4", "2"]
    assert "Cannot read" in " ".join(rows["broken.mp4"])
    assert " ".join(rows[""]) == "4 videos: 3 done, 1 failed"
    assert "1 of 4 videos could not be segmented" in error
    assert sorted(path.name for path in out.iterdir()) == ["frames", "v10", "v2"]
    for name in ("frames", "v10", "v2"):
        assert (out / name / "objects.json").is_file()
        assert (out / name / "exports" / "masks.npz").is_file()


def test_results_are_those_of_single_commands(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    oclr("segment", f"{videos}/v*.mp4", tmp_path / "out")
    assert oclr("segment", videos / "v10.mp4", tmp_path / "out" / "one") == 0
    one, several = tmp_path / "out" / "one", tmp_path / "out" / "v10"
    for path in [path for path in one.rglob("*") if path.is_file()]:
        assert path.read_bytes() == (several / path.relative_to(one)).read_bytes()


def test_the_same_command_goes_on(videos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ("segment", f"{videos}/*", out, "--quiet", "--no-overlay")
    oclr(*command)
    before = (out / "v2" / "objects.json").stat().st_mtime_ns
    shutil.rmtree(out / "v10")
    shutil.move(videos / "broken.mp4", tmp_path)
    asked = []
    real = batch.segment_into
    monkeypatch.setattr(
        batch, "segment_into", lambda *a, **k: (asked.append(a[2].name), real(*a, **k))[1]
    )
    capsys.readouterr()
    assert oclr(*command) == 0
    text, error = capsys.readouterr()
    assert error == ""
    assert asked == ["v10.mp4"], "only what is missing is computed"
    assert (out / "v2" / "objects.json").stat().st_mtime_ns == before
    assert table(text)["v2.mp4"] == ["6", "2", "-", "already", "there"]
    # A format that was not asked for before is added to finished results.
    assert oclr(*command, "--export", "coco") == 0
    assert asked == ["v10.mp4"] and (out / "v2" / "exports" / "coco.json").is_file()


def test_results_with_other_settings_are_not_taken_for_the_wanted_ones(videos, tmp_path, capsys):
    command = ("segment", f"{videos}/v*.mp4", tmp_path / "out", "--no-overlay")
    oclr(*command)
    assert oclr(*command, "--flow", "dis:fast") == 3
    assert "other settings; add --overwrite" in capsys.readouterr().out
    assert oclr(*command, "--flow", "dis:fast", "--overwrite") == 0
    record = json.loads((tmp_path / "out" / "v2" / "objects.json").read_text())
    assert record["settings"]["flow"]["preset"] == "fast"


def test_an_interrupted_batch_keeps_what_is_finished(videos, tmp_path, monkeypatch, capsys):
    real = batch.segment_into

    def stop_at_the_second(folder, output, input, *more, **options):
        if "v10" in input.name:
            (folder / "masks").mkdir()
            raise KeyboardInterrupt
        return real(folder, output, input, *more, **options)

    monkeypatch.setattr(batch, "segment_into", stop_at_the_second)
    assert oclr("segment", f"{videos}/v*.mp4", tmp_path / "out") == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v2"]


def test_a_fault_of_the_program_is_told_and_the_others_go_on(videos, tmp_path, monkeypatch, capsys):
    real = batch.segment_into

    def fail(folder, output, input, *more, **options):
        if "v2" in input.name:
            raise ZeroDivisionError("by zero")
        return real(folder, output, input, *more, **options)

    monkeypatch.setattr(batch, "segment_into", fail)
    assert oclr("segment", f"{videos}/v*.mp4", tmp_path / "out", "--no-overlay") == 3
    text, error = capsys.readouterr()
    assert "ZeroDivisionError: by zero" in text and "Traceback" in error
    assert table(text)["v10.mp4"][-1] == DONE


def test_one_model_of_one_shape_serves_all_videos(videos, tmp_path, monkeypatch):
    model, opened, shapes = motion_segmenter(), [], set()

    def answer(params, flow):
        shapes.add(flow.shape)
        return model.predict(params, flow)

    def load(*_):
        opened.append(dataclasses.replace(model, predict=answer))
        return opened[0]

    monkeypatch.setattr(batch, "load_segmenter", load)
    oclr("segment", f"{videos}/*", tmp_path / "out", "--no-overlay")
    assert len(opened) == 1 and shapes == {(1, 6, 32, 48, 4)}


def test_names_of_the_folders(videos, tmp_path):
    assert list(find_videos(f"{videos}/*.mp4", tmp_path)) == ["broken", "v2", "v10"]
    shutil.copy(videos / "v2.mp4", videos / "v2.mov")
    assert list(find_videos(f"{videos}/v2.*", tmp_path)) == ["v2.mov", "v2.mp4"]
    (videos / "frames" / "v2.mp4").touch()
    with pytest.raises(UserError, match="called v2.mp4"):
        find_videos(f"{videos}/**/v2.mp4", tmp_path)
    with pytest.raises(UserError, match="give the folder of the frames"):
        find_videos(f"{videos}/*.png", tmp_path)
    with pytest.raises(UserError, match="Nothing matches"):
        find_videos(f"{videos}/*.avi", tmp_path)
    # Results beside the videos are no videos.
    (videos / "out").mkdir()
    (videos / "result").mkdir()
    (videos / "result" / "objects.json").touch()
    assert not {"out", "result"} & find_videos(f"{videos}/*", videos / "out").keys()


def test_the_table(tmp_path):
    opened = [
        batch.Outcome("a.mp4", DONE, 10, 2, 1.25),
        batch.Outcome("folder/longer name.mp4", KEPT, 100, 1),
        batch.Outcome("c.mp4", FAILED, error="It is no video."),
    ]
    assert format_outcomes(opened).splitlines() == [
        "video            frames  objects  seconds  result",
        "a.mp4                10        2      1.2  done",
        "longer name.mp4     100        1        -  already there",
        "c.mp4                 -        -        -  failed: It is no video.",
        "3 videos: 1 done, 1 already there, 1 failed",
    ]
