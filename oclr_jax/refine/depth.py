"""The depth order of refined tracks, from what each object hides of the others."""

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from oclr_jax.flow.resize import resize_flow
from oclr_jax.oclr.depth import depth_order
from oclr_jax.ops.metrics import present_ids
from oclr_jax.ops.occlusion import hidden_pixels
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track, frame_masks
from oclr_jax.video.clip import progress

# Masks and flow are compared at SCALE times the height and width of the model grid.
SCALE = 2
# Votes by the order so far, where nothing of either object is hidden: less than one pixel.
_UNSEEN = 0.5


def order_by_occlusion(video: RefinerVideo, tracks: list[Track]) -> list[Track]:
    """Orders tracks by depth: an object is behind those that hide it.

    For each pair of objects, the pixels of one that move under the other, over all frames and gaps,
    are set against those of the other that move under the one, see `hidden_pixels`. Pairs of which
    nothing is hidden keep the order that they have. The masks must end where objects do, as those
    of a refiner; those of the flow model give a wrong order far more often.

    Args:
      video: with the flow.
      tracks: after the refiners.

    Returns the tracks with new ranks; nothing else changes.
    """
    if len(tracks) < 2:
        return tracks
    height, width = (SCALE * side for side in video.grid)
    held = 2 * max(map(abs, video.gaps)) + 1

    @lru_cache(maxsize=held)
    def visible(frame: int) -> UInt8[np.ndarray, "h w"]:
        present = [track for track in tracks if frame in track.amodal or frame in track.modal]
        return frame_masks(present, frame, height, width)[0]

    before = [track.id for track in sorted(tracks, key=lambda track: track.rank)]
    place = {id: i for i, id in enumerate(before)}
    votes: dict[tuple[int, int], float] = defaultdict(float)
    frames = ((shot, frame) for shot in video.clip.shots for frame in shot)
    for shot, frame in progress(frames, "ordering", video.clip.count, video.quiet):
        flow = video.flow(frame) if len(present_ids(visible(frame))) > 1 else None
        if flow is None:
            continue
        for channel, gap in enumerate(video.gaps):
            if frame + gap not in shot:
                continue
            field = resize_flow(flow[..., 2 * channel : 2 * channel + 2], height, width)
            counts = hidden_pixels(visible(frame), visible(frame + gap), field)
            for (back, front), count in counts.items():
                votes[min(back, front), max(back, front)] += count if front < back else -count
    for low in place:
        for high in place:
            if low < high and not votes.get((low, high)):
                votes[low, high] = _UNSEEN if place[low] < place[high] else -_UNSEEN
    order = depth_order(before, votes)
    rank = {id: i for i, id in enumerate(order)}
    return [replace(track, rank=rank[track.id]) for track in tracks]
