"""Pairs of flows from folders of videos: what is drawn, what is kept, what is refused."""

import numpy as np
import pytest

from data_pipelines.loaders import video_flows
from data_pipelines.loaders.video_flows import make_video_flow_loaders
from oclr_jax.errors import UserError
from oclr_jax.flow import DIS, gap_flows, resize_flow
from tests.clips import moving_clip, write_frames

GAPS = (1, 2, -1, -2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, seed in (("one", 0), ("two", 9)):
        write_frames(folder / name, moving_clip(6, seed=seed))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def loaders(videos, cache, **changes):
    options = {"gaps": GAPS, "height": 16, "width": 24, "batch_size": 8, "seed": 3} | changes
    return make_video_flow_loaders(videos, "dis:ultrafast", cache, **options)


def test_samples_are_two_gaps_of_one_frame(videos, cache):
    training, validation = loaders(videos, cache)
    assert training.settings["flow"]["preset"] == "ultrafast"
    assert training.settings["data_version"] == "2 videos, no annotations"
    known = {}
    for name in ("one", "two"):
        seed = {"one": 0, "two": 9}[name]
        fields = gap_flows(moving_clip(6, seed=seed), GAPS, DIS(preset="ultrafast"))
        known[name] = resize_flow(fields, 16, 24).astype(np.float16).astype(np.float32)
    seen = set()
    for step in range(12):
        for pair in training[step]["flow"]:
            assert pair.shape == (1, 16, 24, 4)
            parts = pair[0, ..., :2], pair[0, ..., 2:]
            assert not np.array_equal(*parts), "the gaps are different ones"
            places = [
                {
                    (name, frame, gap)
                    for name, fields in known.items()
                    for frame, gap in np.ndindex(6, 4)
                    if np.array_equal(fields[frame, ..., 2 * gap : 2 * gap + 2], part)
                }
                for part in parts
            ]
            assert all(places)
            assert {place[:2] for place in places[0]} & {place[:2] for place in places[1]}
            first, second = places[0].pop(), places[1].pop()
            seen |= {("video", first[0]), ("gaps", first[2], second[2])}
    assert {("video", "one"), ("video", "two")} <= seen
    assert len([each for each in seen if each[0] == "gaps"]) >= 10
    fixed = [batch["flow"] for batch in validation.iterate()]
    assert len(fixed) == video_flows.VALIDATION_SAMPLES
    again = loaders(videos, cache, seed=5)[1][7]["flow"]
    np.testing.assert_array_equal(fixed[7], again)


def test_flow_is_estimated_once(videos, cache, monkeypatch):
    first = loaders(videos, cache)[0][5]["flow"]
    monkeypatch.setattr(video_flows, "stream_flow", None)
    np.testing.assert_array_equal(loaders(videos, cache)[0][5]["flow"], first)
    with pytest.raises(TypeError):
        loaders(videos, cache, height=8)


def test_two_processes_share_a_batch(videos, cache):
    whole = loaders(videos, cache)[0][2]["flow"]
    halves = [
        loaders(videos, cache, batch_size=4, process_index=i, process_count=2)[0][2]["flow"]
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_what_cannot_be_used(videos, cache, tmp_path):
    with pytest.raises(UserError, match="no folder of videos"):
        loaders(tmp_path / "none", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        loaders(tmp_path / "empty", cache)
    write_frames(tmp_path / "short" / "clip", moving_clip(3))
    with pytest.raises(UserError, match="no shot of 4 frames"):
        loaders(tmp_path / "short", cache)
    with pytest.raises(UserError, match="at least two"):
        loaders(videos, cache, gaps=(1,))
