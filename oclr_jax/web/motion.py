"""How fast everything moves in every frame, estimated in the background for the time line."""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from oclr_jax.corrections.frames import Step, correct_scores
from oclr_jax.corrections.operations import Scene
from oclr_jax.corrections.result import Result
from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS
from oclr_jax.video.reader import VideoSource
from oclr_jax.video.resize import resize_ids

_HEIGHT, _WIDTH = 64, 112
Speeds = dict[int, tuple[float, int]]  # (mean length of the flow, pixels) by id, 0 = background


class Motion:
    """Reads the video once, in a thread of its own, and keeps a few numbers per frame.

    Speeds are mean lengths of the flow to the next frame, in percent of the video's width. The last
    frame of a shot has none.
    """

    def __init__(self, result: Result, source: VideoSource):
        self._result, self._source = result, source
        self._speeds: list[Speeds] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def tracks(self, scene: Scene, steps: Sequence[Step]) -> dict[str, Any]:
        """What is known so far, for the corrected objects; the first call starts the estimation."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._estimate, name="motion", daemon=True)
            self._thread.start()
        known = list(self._speeds)
        objects = [
            correct_scores(steps, frame, {id: value for id, value in speeds.items() if id})
            for frame, speeds in enumerate(known)
        ]
        return {
            "done": len(known),
            "background": [_speed(speeds.get(0)) for speeds in known],
            "objects": {str(id): [_speed(here.get(id)) for here in objects] for id in scene.order},
        }

    def stop(self) -> None:
        """Ends the estimation."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()

    def _estimate(self) -> None:
        estimator = DIS(_HEIGHT, _WIDTH, "ultrafast")
        last = {shot[1] for shot in self._result.record["video"]["shots"]}
        try:
            frames = self._result.frames(self._source)
            for number, (first, second) in enumerate(pairwise(frames)):
                if self._stopping:
                    return
                speeds: Speeds = {}
                if number not in last:
                    (flow,) = estimator(first[None], second[None])
                    speeds = self._measure(number, flow)
                self._speeds.append(speeds)
            self._speeds.append({})
        except (UserError, OSError):
            pass  # the player says what is wrong with the video

    def _measure(self, frame: int, flow: np.ndarray) -> Speeds:
        ids = resize_ids(self._result.ids(frame), _HEIGHT, _WIDTH)
        height, width = self._result.size
        percent = np.array([100 / _WIDTH, 100 / _HEIGHT * height / width], np.float32)
        length = np.linalg.norm(flow * percent, axis=-1)
        areas = np.bincount(ids.ravel(), minlength=256)
        sums = np.bincount(ids.ravel(), weights=length.ravel(), minlength=256)
        return {
            int(id): (float(sums[id] / areas[id]), int(areas[id])) for id in np.flatnonzero(areas)
        }


def _speed(value: tuple[float, int] | None) -> float | None:
    return None if value is None else round(value[0], 3)
