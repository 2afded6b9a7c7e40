"""The depth order of refined tracks: an object is behind those that hide it."""

from dataclasses import replace

import numpy as np
import pytest

from oclr_jax.refine.depth import order_by_occlusion
from oclr_jax.tracks import StoredMask, Track
from tests.refine.scenes import HEIGHT, ROWS, WIDTH, SceneVideo, box_columns

FRAMES = 20
WALL = slice(20, 30)  # columns that the moving box of `SceneVideo` passes; it does not move


def visible(front: str) -> dict[str, np.ndarray]:
    """The visible masks `[t h w]` of the box and the wall, one of which is in front."""
    masks = {name: np.zeros((FRAMES, HEIGHT, WIDTH), bool) for name in ("box", "wall")}
    for frame in range(FRAMES):
        masks["box"][frame, ROWS, box_columns(frame)] = True
    masks["wall"][:, ROWS, WALL] = True
    back = "wall" if front == "box" else "box"
    masks[back] &= ~masks[front]
    return masks


def track(id: int, rank: int, masks: np.ndarray) -> Track:
    stored = {i: StoredMask.encode(mask, mask.astype(np.float32)) for i, mask in enumerate(masks)}
    whole = {i: mask for i, mask in stored.items() if mask.score}
    return Track(id, rank, shot=0, amodal=whole, modal=stored)


def ranks(tracks: list[Track]) -> list[int]:
    return [track.rank for track in tracks]


@pytest.mark.parametrize("gaps", [(1, -1), (-1, 1), (2, -2)])
@pytest.mark.parametrize("front", ["box", "wall"])
@pytest.mark.parametrize("before", [(0, 1), (1, 0)])
def test_the_object_that_hides_the_other_is_in_front(gaps, front, before):
    masks, video = visible(front), SceneVideo(FRAMES, gaps=gaps)
    given = [track(5, before[0], masks["box"]), track(9, before[1], masks["wall"])]
    found = order_by_occlusion(video, given)
    assert ranks(found) == ([0, 1] if front == "box" else [1, 0])
    assert [replace(one, rank=0) for one in found] == [replace(one, rank=0) for one in given]


def test_tracks_of_which_nothing_is_hidden_keep_their_order():
    masks = visible("wall")
    far = np.zeros_like(masks["box"])
    far[:, :4, -4:] = True
    tracks = [track(1, 2, masks["box"]), track(2, 0, far), track(3, 1, masks["wall"])]
    assert ranks(order_by_occlusion(SceneVideo(FRAMES), tracks)) == [2, 0, 1]
    tracks = [track(1, 0, masks["box"]), track(2, 1, far), track(3, 2, masks["wall"])]
    after = ranks(order_by_occlusion(SceneVideo(FRAMES), tracks))
    assert after[2] < after[0]


def test_one_track_or_none_stays():
    video, alone = SceneVideo(FRAMES), [track(1, 0, visible("wall")["box"])]
    assert order_by_occlusion(video, alone) is alone
    assert order_by_occlusion(video, []) == []


def test_shots_are_apart_and_frames_without_flow_are_left_out():
    masks = visible("wall")
    tracks = [track(1, 0, masks["box"]), track(2, 1, masks["wall"])]
    single = SceneVideo(FRAMES, shots=[range(i, i + 1) for i in range(FRAMES)])
    assert ranks(order_by_occlusion(single, tracks)) == [0, 1]
    still = SceneVideo(FRAMES)
    object.__setattr__(still, "flow", lambda frame: None)
    assert ranks(order_by_occlusion(still, tracks)) == [0, 1]
