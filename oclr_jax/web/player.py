"""What the player shows of a result: frames, flow, corrected masks, tracks under the time line."""

import gzip
import os
import threading
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from oclr_jax.corrections.apply import scores_of_frames
from oclr_jax.corrections.file import Corrections
from oclr_jax.corrections.frames import correct_masks
from oclr_jax.corrections.result import Result
from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS
from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.show.overlay import BRIGHT_PALETTE
from oclr_jax.video.access import FrameAccess
from oclr_jax.web.motion import Motion

_LONGEST_SIDE = 1280  # of the shown frames; larger ones would not play smoothly
_QUALITY = 88
_KEPT = 96  # encoded frames


class Player:
    """One result in the page; safe to use from several threads.

    Attributes:
      result, corrections: of the folder.
      problem: why the video cannot be shown, empty where it can.
    """

    def __init__(self, folder: str | os.PathLike, video: str | os.PathLike | None = None):
        """Raises UserError for a folder without whole results."""
        self.result = Result(folder)
        self.corrections = Corrections(folder, self.result.record)
        height, width = self.result.size
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
        self._size = (max(1, round(height * scale)), max(1, round(width * scale)))
        self._lock = threading.Lock()
        self._frames: FrameAccess | None = None
        self._motion: Motion | None = None
        self.problem = ""
        try:
            source = self.result.open_video(video)
            self._frames = FrameAccess(source, self.result.record["video"]["times"])
            self._motion = Motion(self.result, source)
        except (UserError, OSError) as error:
            self.problem = str(error)
        self.picture = lru_cache(_KEPT)(self._picture)
        self.flow = lru_cache(_KEPT)(self._flow)

    def close(self) -> None:
        """Ends what runs in the background."""
        if self._motion is not None:
            self._motion.stop()

    def summary(self) -> dict[str, Any]:
        """The video, the objects as they are corrected, and the corrections."""
        video, corrections = self.result.record["video"], self.corrections
        with self._lock:
            scene, steps = corrections.scene, corrections.steps
            return {
                "folder": str(self.result.folder),
                "problem": self.problem,
                "video": {
                    "name": video["name"],
                    "frames": video["frames"],
                    "width": video["width"],
                    "height": video["height"],
                    "fps": video["fps"],
                    "times": video["times"],
                    "shots": video["shots"],
                    "aspect": video["pixel_aspect"][0] / video["pixel_aspect"][1],
                },
                "shown": {"height": self._size[0], "width": self._size[1]},
                "objects": [
                    {
                        "id": id,
                        "first": scene.spans[id][0],
                        "last": scene.spans[id][1],
                        "colour": BRIGHT_PALETTE[id].tolist(),
                        "foreground": id in scene.foreground,
                    }
                    for id in scene.order
                ],
                "corrections": [step.operation.describe() for step in steps],
                "undone": [operation.describe() for operation in corrections.undone],
            }

    def tracks(self) -> dict[str, Any]:
        """Per object and frame the score and the visible area; null where it is absent."""
        with self._lock:
            scene, steps = self.corrections.scene, list(self.corrections.steps)
        scores = scores_of_frames(self.result.record, steps)
        return {
            str(id): {
                "score": [round(here[id][0], 3) if id in here else None for here in scores],
                "area": [here[id][1] if id in here else None for here in scores],
            }
            for id in scene.order
        }

    def motion(self) -> dict[str, Any]:
        """Per frame the speed of the background and of each object, as far as it is known."""
        if self._motion is None:
            return {"done": 0, "background": [], "objects": {}}
        with self._lock:
            scene, steps = self.corrections.scene, list(self.corrections.steps)
        return self._motion.tracks(scene, steps)

    def correct(self, action: str, value: Any = None) -> None:
        """Adds a correction (`add`), takes one back (`undo`) or makes it again (`redo`)."""
        with self._lock:
            if action == "add":
                self.corrections.add(value)
            elif action == "undo":
                self.corrections.undo()
            else:
                self.corrections.redo()

    def masks(self, frame: int) -> tuple[list[int], bytes]:
        """The masks of a frame at the shown size: the ids with an amodal mask, and the planes.

        The planes, rows of bytes compressed by gzip, are the id that is visible at each pixel, and
        for each eight of the ids one whose bit i is the amodal mask of the i-th of them.
        """
        self._check(frame)
        with self._lock:
            steps = list(self.corrections.steps)
        ids, amodal = correct_masks(steps, frame, *self.result.masks(frame))
        numbers = sorted(amodal)
        planes = [self._resized(ids)]
        for start in range(0, len(numbers), 8):
            bits = np.zeros(self._size, np.uint8)
            for bit, id in enumerate(numbers[start : start + 8]):
                bits |= self._resized(amodal[id].view(np.uint8)) << np.uint8(bit)
            planes.append(bits)
        return numbers, gzip.compress(np.stack(planes).tobytes(), compresslevel=1)

    def _picture(self, frame: int) -> bytes:
        """A frame as JPEG at the shown size."""
        return _jpeg(self._shrunk(self._access().read(frame)))

    def _flow(self, frame: int) -> bytes:
        """The flow from a frame to the next one (the last: from the one before) as JPEG."""
        self._check(frame)
        frames = self._access()
        start = min(frame, len(self.result.stems) - 2)
        first, second = (frames.read(number) for number in (start, start + 1))
        (flow,) = DIS()(first[None], second[None])
        picture = cv2.resize(flow_to_rgb(flow), self._size[::-1], interpolation=cv2.INTER_LINEAR)
        return _jpeg(picture)

    def _access(self) -> FrameAccess:
        if self._frames is None:
            raise UserError(self.problem)
        return self._frames

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self.result.stems):
            raise UserError(f"There is no frame {frame}; there are {len(self.result.stems)}.")

    def _shrunk(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        if image.shape[:2] == self._size:
            return image
        return cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)

    def _resized(self, mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
        if mask.shape == self._size:
            return mask
        return cv2.resize(mask, self._size[::-1], interpolation=cv2.INTER_NEAREST)


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
