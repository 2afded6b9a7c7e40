"""Folders of images, silhouettes and videos: contents of samples, rejected folders."""

import cv2
import numpy as np
import pytest

from data_pipelines.synthetic import SceneConfig, SceneKind, compose_scene, open_sources, render
from data_pipelines.synthetic.backgrounds import follow_camera
from data_pipelines.synthetic.scene import Footage
from data_pipelines.synthetic.sources import random_crop
from data_pipelines.synthetic.textures import texture
from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.video.writer import video_writer

CONFIG = SceneConfig(
    frames=4,
    height=48,
    width=64,
    render_height=48,
    render_width=64,
    shadows=0.0,
    reflections=0.0,
    noisy=0.0,
    compressed=0.0,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of each kind, each with a broken file in it."""
    root = tmp_path_factory.mktemp("sources")
    for index in range(3):
        image = texture(np.random.default_rng(index), 90, 120)
        image[..., 2] = 7  # tells pictures of this folder
        write_png(root / "images" / "deep" / f"{index}.png", image)
    (root / "images" / "broken.jpg").write_bytes(b"no picture")
    (root / "images" / "LICENSE").write_text("CC BY 4.0\nmore words\n")
    ids = np.zeros((80, 100), np.uint8)
    ids[10:50, 20:90] = 2
    ids[60:64, 10:14] = 1  # too small
    write_ids(root / "silhouettes" / "cow" / "00000.png", ids)
    write_ids(root / "silhouettes" / "cow" / "00001.png", np.zeros_like(ids))
    (root / "silhouettes" / "cow" / "00002.png").write_bytes(b"no picture")
    world = texture(np.random.default_rng(9), 120, 200)
    for t in range(12):
        write_png(root / "videos" / "pan" / f"{t:05d}.png", world[10:100, 3 * t : 3 * t + 120])
    (root / "videos" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def sources(folders):
    return open_sources(folders / "images", folders / "silhouettes", folders / "videos")


def test_broken_files_are_listed_and_skipped(sources):
    assert sources.images.files == ("deep/0.png", "deep/1.png", "deep/2.png")
    assert sources.images.broken == ("broken.jpg",)
    assert sources.silhouettes.files == ("cow/00000.png",)
    assert sources.silhouettes.broken == ("cow/00002.png",)
    assert sources.objects == ((2,),)
    assert sources.videos.files == ("pan",)
    assert sources.videos.broken == ("broken.mp4",)


def test_settings_describe_the_sources_without_their_paths(sources, folders):
    settings = sources.settings()
    assert settings["images"]["licence"] == "CC BY 4.0"
    assert settings["images"]["files"] == 3
    assert settings["videos"]["licence"].startswith("not stated")
    assert str(folders) not in str(settings)
    assert open_sources(folders / "images").settings()["images"] == settings["images"]


@pytest.mark.parametrize("kind", ["images", "silhouettes", "videos"])
def test_missing_empty_and_broken_folders_are_rejected(tmp_path, kind):
    with pytest.raises(UserError, match="no source folder"):
        open_sources(**{kind: tmp_path / "none"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"has no {kind}"):
        open_sources(**{kind: tmp_path / "empty"})
    name = "a.mp4" if kind == "videos" else "a.png"
    (tmp_path / "empty" / name).write_bytes(b"broken")
    with pytest.raises(UserError, match=f"None of the 1 {kind}.*{name}"):
        open_sources(**{kind: tmp_path / "empty"})


def test_silhouettes_without_objects_are_rejected(tmp_path):
    write_ids(tmp_path / "a" / "0.png", np.zeros((50, 50), np.uint8))
    with pytest.raises(UserError, match="No object in the silhouettes"):
        open_sources(silhouettes=tmp_path)


def test_scenes_use_the_folders(sources):
    kind = SceneKind(objects=1, background="video")
    drawn = compose_scene(np.random.default_rng(0), CONFIG, kind, sources)
    assert isinstance(drawn.backdrop, Footage)
    with pytest.raises(UserError, match="give `render` an estimator"):
        render(drawn)
    sample = render(drawn, footage_flow=DIS(48, 64))
    # Outlines are blended with what is behind them.
    background = np.stack(
        [
            cv2.erode((ids == 0).astype(np.uint8), np.ones((5, 5))) > 0
            for ids in sample["segmentations"]
        ]
    )
    np.testing.assert_array_equal(sample["video"][background], drawn.backdrop.frames[background])
    # The video pans sideways, at one to three steps of 3 px of its 120 columns, cropped.
    flow = np.median(sample["forward_flow"][1][background[1]], 0)
    assert abs(flow[0]) > 1 and abs(flow[1]) < 0.5
    image = compose_scene(np.random.default_rng(0), CONFIG, SceneKind(objects=1), sources)
    # Blue is constant in these images, and stays so under any change of colours.
    assert np.ptp(image.backdrop.sprite[..., 2].astype(int)) <= 1
    (part,) = image.parts
    assert np.ptp(part.sprite[..., 2].astype(int)) <= 1


def test_a_share_stays_procedural(folders):
    mixed = open_sources(folders / "images", folders / "silhouettes", procedural=0.5)
    assert mixed.settings()["procedural"] == 0.5
    rng = np.random.default_rng(0)
    # The files' third channel is 7 before the jitter of colours; procedural textures vary.
    flat = [np.ptp(mixed.texture(rng, 24, 24)[..., 2].astype(int)) < 3 for _ in range(40)]
    assert 10 < sum(flat) < 30
    assert "procedural" not in open_sources(folders / "images").settings()


def test_a_senseless_share_is_rejected(folders):
    with pytest.raises(UserError, match="choose one from 0 to 1"):
        open_sources(folders / "images", procedural=1.5)
    with pytest.raises(UserError, match="name a folder of either"):
        open_sources(procedural=0.5)


def test_short_videos_play_back_and_forth(sources):
    for seed in range(8):
        clip = sources.footage(np.random.default_rng(seed), 30, 45, 60)
        assert clip.shape == (30, 45, 60, 3)
        assert all((a != b).any() for a, b in zip(clip[:-1], clip[1:], strict=True))


def test_video_files_are_read_and_damaged_ones_skipped(tmp_path, monkeypatch):
    world = texture(np.random.default_rng(4), 100, 200)
    with video_writer(tmp_path / "pan.mp4", 12, 64, 96) as write:
        for t in range(10):
            write(np.ascontiguousarray(world[10:74, 5 * t : 5 * t + 96]))
    sources = open_sources(videos=tmp_path)
    assert sources.videos.files == ("pan.mp4",)
    clip = sources.footage(np.random.default_rng(0), 4, 48, 72)
    assert clip.shape == (4, 48, 72, 3)
    assert np.abs(np.diff(clip.astype(int), axis=0)).mean() > 1

    def break_off(rng, path, wanted):
        raise UserError("damaged")

    monkeypatch.setattr("data_pipelines.synthetic.sources._read_frames", break_off)
    with pytest.raises(UserError, match="10 background videos in a row"):
        sources.footage(np.random.default_rng(0), 4, 48, 72)


def test_crops_move_together():
    images = np.stack([texture(np.random.default_rng(1), 60, 80)] * 2)
    cropped = random_crop(np.random.default_rng(0), images, 30, 40)
    assert cropped.shape == (2, 30, 40, 3)
    np.testing.assert_array_equal(cropped[0], cropped[1])


def test_camera_is_followed():
    world = texture(np.random.default_rng(2), 200, 300)
    frames = np.stack([world[20 + t : 120 + t, 10 + 4 * t : 170 + 4 * t] for t in range(4)])
    path = follow_camera(frames)
    for t in range(4):
        corners = cv2.perspectiveTransform(np.array([[[80.0, 50.0]]]), path[t])[0, 0]
        np.testing.assert_allclose(corners, [80 - 4 * t, 50 - t], atol=0.3)
    still = follow_camera(np.zeros((3, 40, 60, 3), np.uint8))
    np.testing.assert_array_equal(still, np.broadcast_to(np.eye(3), (3, 3, 3)))
