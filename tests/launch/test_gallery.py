"""The pictures of the gallery: one for each video, from results that are kept."""

import cv2

from data_pipelines.synthetic import SceneConfig
from launch import demo
from launch.reports import gallery
from oclr_jax import batch
from tests.clips import motion_segmenter, moving_clip
from tests.video.videos import write_video


def test_videos_and_scenes_become_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch, "load_segmenter", lambda *_: motion_segmenter())
    monkeypatch.setattr(demo, "CLIP", SceneConfig(frames=4, render_height=64, render_width=96))
    clip = write_video(tmp_path / "squares.mp4", moving_clip(7))
    command = [str(clip), "--results", str(tmp_path / "results"), "--output", str(tmp_path / "out")]
    assert gallery.main([*command, "--scenes", "8"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scene_8.jpg", "squares.jpg"]
    # Four rows of pictures: frames, flow, and masks with and without what is hidden.
    height, width, _ = cv2.imread(str(tmp_path / "out" / "squares.jpg")).shape
    assert height > 4 * gallery.TILE_HEIGHT and width > gallery.COLUMNS * gallery.TILE_HEIGHT
    capsys.readouterr()
    assert gallery.main(command) == 0
    assert "already there" in capsys.readouterr().out


def test_a_video_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "load_segmenter", lambda *_: motion_segmenter())
    (tmp_path / "broken.mp4").write_text("no video")
    clip = write_video(tmp_path / "squares.mp4", moving_clip(5))
    videos = [str(tmp_path / "broken.mp4"), str(clip)]
    command = [*videos, "--results", str(tmp_path / "results"), "--output", str(tmp_path / "out")]
    assert gallery.main(command) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["squares.jpg"]
