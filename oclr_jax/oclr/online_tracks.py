"""Tracking of a stream: ids for the layers of each window, without the windows to come."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from oclr_jax.errors import UserError
from oclr_jax.flow import FrameFlow
from oclr_jax.oclr.predict import FlowWindow, stack_window
from oclr_jax.oclr.reidentify import MAX_CHANGE, MAX_GAP
from oclr_jax.oclr.strands import WindowLayers, colour_distance, mean_colours, observe
from oclr_jax.oclr.tracking import MAX_OBJECTS, MIN_AREA, MIN_SCORE, continued_layers
from oclr_jax.tracks import StoredMask, Track


class Delay(NamedTuple):
    """How a delay is spent. The masks of a frame are known `frames` frames after it was read.

    A window ends `margin` frames after the last frame whose masks are taken from it, so that the
    model sees what comes next, and the model runs once for `hop` frames.
    """

    frames: int
    hop: int
    margin: int


def split_delay(frames: int | None, window: int, overlap: int, reach: int) -> Delay:
    """Chooses windows for a delay.

    Args:
      frames: the delay; None for that of windows as without `--online`.
      window: frames of a window.
      overlap: frames that neighbouring windows share without `--online`.
      reach: the largest gap of the flow, in frames.

    Raises:
      UserError: no windows have this delay.
    """
    margin, least = overlap // 2, 2 * reach - 1
    most = window - 1 + reach
    if frames is None:
        frames = window - overlap + margin + reach - 1
    if not least <= frames <= most:
        raise UserError(f"A delay of {frames} frames is not possible; choose {least} to {most}.")
    budget = frames - reach + 1
    margin = min(margin, budget // 2)
    return Delay(frames, budget - margin, margin)


class LiveWindow(NamedTuple):
    """A window, and the frames of it whose masks are taken from it."""

    flow: FlowWindow
    frames: range


def live_windows(flows: Iterable[FrameFlow], size: int, delay: Delay) -> Iterator[LiveWindow]:
    """Cuts each shot of a stream into windows of the last `size` frames, as soon as they are there.

    At the start of a shot there are fewer; the last frame is then repeated.
    """
    for shot, flows_of_shot in groupby(flows, key=lambda flow: flow.shot):
        held: deque[FrameFlow] = deque(maxlen=size)
        done = last = None  # the next frame whose masks are wanted, the newest one
        for flow in flows_of_shot:
            held.append(flow)
            last = flow.frame
            done = last if done is None else done
            if last + 1 - done == delay.hop + delay.margin:
                yield LiveWindow(stack_window(shot, held, size), range(done, done + delay.hop))
                done += delay.hop
        if done is not None and done <= last:
            yield LiveWindow(stack_window(shot, held, size), range(done, last + 1))


@dataclass
class _Known:
    """An object that was seen before."""

    shot: int
    last: int  # frame in which it was last seen
    colours: Float[np.ndarray, " bins"]


@dataclass
class OnlineTracker:
    """Gives layers ids that hold from window to window.

    A layer continues the layer of the window before whose masks in the shared frames are the most
    alike, as in `link_windows`. A layer that continues none is an object that was lost less than
    MAX_GAP frames ago and has the same colours, or a new one. An id is given once a layer is large
    and sure enough. What later windows show changes no id and no mask. Memory is constant: of more
    than MAX_OBJECTS objects the one that was not seen for the longest time loses its id.
    """

    _known: dict[int, _Known] = field(default_factory=dict)
    _previous: WindowLayers | None = None
    _linked: list[int | None] = field(default_factory=list)  # id of each layer of `_previous`

    def add(self, window: WindowLayers, frames: range) -> list[Track]:
        """Returns the objects of a window, with masks in `frames`, in no particular order."""
        layers = window.order.size
        ids: list[int | None] = [None] * layers
        previous = self._previous
        if previous is not None and previous.shot == window.shot:
            shared = previous.start + len(previous.probability) - window.start
            if shared > 0:
                ids = continued_layers(previous, self._linked, window, shared)
        seen = {frame: observe(window, frame - window.start) for frame in frames}
        ranks = np.argsort(np.argsort(window.order, kind="stable"))
        tracks = []
        for layer in range(layers):
            masks = self._masks(window, frames, layer)
            shown = [s for s in (seen[frame][layer] for frame in frames) if s and s.is_shown]
            if ids[layer] is None and shown and _is_object(masks):
                ids[layer] = self._recognise(window, frames, mean_colours(shown), ids)
            if ids[layer] is None or not masks:
                continue
            colours = mean_colours(shown) if shown else self._known[ids[layer]].colours
            self._known[ids[layer]] = _Known(window.shot, max(masks), colours)
            tracks.append(Track(ids[layer], int(ranks[layer]), window.shot, amodal=masks))
        self._previous, self._linked = window, ids
        return tracks

    @staticmethod
    def _masks(window: WindowLayers, frames: range, layer: int) -> dict[int, StoredMask]:
        found = {}
        for frame in frames:
            probability = window.probability[frame - window.start, ..., layer]
            if (probability > 0.5).any():
                found[frame] = StoredMask.encode(probability > 0.5, probability)
        return found

    def _recognise(
        self,
        window: WindowLayers,
        frames: range,
        colours: Float[np.ndarray, " bins"],
        taken: list[int | None],
    ) -> int:
        """The id of the object that looks like this, or a new one."""
        lost = {
            id: colour_distance(known.colours, colours)
            for id, known in self._known.items()
            if id not in taken
            and known.shot == window.shot
            and 0 < frames.start - known.last <= MAX_GAP
        }
        if lost and min(lost.values()) < MAX_CHANGE:
            return min(lost, key=lost.__getitem__)
        free = next((id for id in range(1, MAX_OBJECTS + 1) if id not in self._known), None)
        if free is not None:
            return free
        absent = {id: known.last for id, known in self._known.items() if id not in taken}
        return min(absent, key=absent.__getitem__)


def _is_object(masks: dict[int, StoredMask]) -> bool:
    """Whether a layer is large enough in a frame, and on average as sure as objects must be."""
    areas = [mask.decode().mean() for mask in masks.values()]
    scores = [mask.score for mask in masks.values()]
    return bool(masks) and max(areas) >= MIN_AREA and float(np.mean(scores)) >= MIN_SCORE
