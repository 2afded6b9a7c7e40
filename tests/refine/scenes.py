"""A box that moves over a still background, with exact flow, as refiners see a video."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import StoredMask, StoredProbability, Track
from oclr_jax.video.clip import open_clip

HEIGHT, WIDTH = 32, 64  # of the grid; frames are twice as large
_FILE = ArrayFile()


def box_columns(frame: int) -> slice:
    """Columns of the box on the grid: it moves one pixel per frame, rightwards."""
    return slice(4 + frame, 20 + frame)


ROWS = slice(8, 24)


def box_masks(frames: int) -> np.ndarray:
    """`[t h w]`, 0.98 inside the box and 0.02 outside."""
    masks = np.full((frames, HEIGHT, WIDTH), 0.02, np.float32)
    for frame, mask in enumerate(masks):
        mask[ROWS, box_columns(frame)] = 0.98
    return masks


def box_frames(frames: int, box=(200, 60, 40), around=(60, 120, 80), noise=6.0) -> np.ndarray:
    """`[t H W 3]`: a box of one colour over another one, with noise."""
    rng = np.random.default_rng(0)
    video = np.empty((frames, 2 * HEIGHT, 2 * WIDTH, 3))
    video[:] = around
    for frame, image in enumerate(video):
        inside = box_masks(frames)[frame].repeat(2, axis=0).repeat(2, axis=1) > 0.5
        image[inside] = box
    return np.clip(video + rng.normal(0, noise, video.shape), 0, 255).astype(np.uint8)


class SceneVideo(RefinerVideo):
    """The video of `box_frames`, whose flow misses by `error` pixels on the way back."""

    def __init__(
        self,
        frames: int | np.ndarray,
        gaps: Sequence[int] = (1, -1),
        error: float = 0.0,
        shots: list[range] | None = None,
    ):
        clip = open_clip(box_frames(max(frames, 2)) if isinstance(frames, int) else frames)
        clip = replace(clip, shots=shots or clip.shots)
        super().__init__(clip, tuple(gaps), (HEIGHT, WIDTH))
        object.__setattr__(self, "_error", error)

    def flow(self, frame: int) -> np.ndarray:
        """Exact flow on the grid, also of frames past the end."""
        flow = np.zeros((HEIGHT, WIDTH, 2 * len(self.gaps)), np.float32)
        for number, gap in enumerate(self.gaps):
            flow[ROWS, box_columns(frame), 2 * number] = gap
            if gap < 0:
                flow[..., 2 * number + 1] = self._error
        return flow


def make_tracks(masks: np.ndarray, shot: int = 0) -> list[Track]:
    """Tracks of soft amodal masks `[t h w k]`, the first in front."""
    tracks = []
    for index in range(masks.shape[-1]):
        track = Track(index + 1, rank=index, shot=shot)
        for frame, soft in enumerate(masks[..., index]):
            track.amodal_probability[frame] = StoredProbability.encode(soft, _FILE)
            if (soft > 0.5).any():
                track.amodal[frame] = StoredMask.encode(soft > 0.5, soft)
        tracks.append(track)
    return tracks
