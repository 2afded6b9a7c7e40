"""Tracks: the objects of a video, their masks in every frame, and what is visible of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from zlib import compress, decompress

import numpy as np
from jaxtyping import Bool, Float, Float32, Real, UInt8

from oclr_jax.storage import ArrayFile, StoredArray
from oclr_jax.video.resize import resize_mask

_FASTEST = 1  # compression level; soft masks shrink to a tenth even so


@dataclass(frozen=True)
class StoredMask:
    """The mask of one object in one frame, compressed, so that long videos fit in memory."""

    shape: tuple[int, int]
    packed: bytes
    score: float  # mean foreground probability inside the mask, 0 for an empty mask

    @classmethod
    def encode(
        cls, mask: Bool[np.ndarray, "h w"], probability: Float[np.ndarray, "h w"]
    ) -> "StoredMask":
        """Compresses a mask; `probability` is the foreground probability it was made from."""
        score = float(probability[mask].mean()) if mask.any() else 0.0
        return cls(mask.shape, compress(np.packbits(mask)), score)

    def decode(self) -> Bool[np.ndarray, "h w"]:
        """Returns the mask."""
        bits = np.frombuffer(decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=prod(self.shape)).reshape(self.shape).astype(bool)


@dataclass(frozen=True)
class StoredProbability:
    """The foreground probability of one object in one frame, in 256 steps, in a temporary file."""

    shape: tuple[int, int]
    packed: StoredArray  # compressed bytes

    @classmethod
    def encode(cls, probability: Float[np.ndarray, "h w"], file: ArrayFile) -> "StoredProbability":
        """Stores probabilities in 0..1; those above 0.5 stay above it, the others below."""
        levels = np.clip(np.ceil(probability * 256) - 1, 0, 255).astype(np.uint8)
        packed = compress(np.ascontiguousarray(levels), _FASTEST)
        return cls(probability.shape, file.append(np.frombuffer(packed, np.uint8)))

    def decode(self) -> Float32[np.ndarray, "h w"]:
        """Returns the probabilities, each within 1/512 of what was stored."""
        levels = np.frombuffer(decompress(self.packed.read()), np.uint8).reshape(self.shape)
        return (levels + np.float32(0.5)) / np.float32(256)


@dataclass
class Track:
    """One object of a video. Masks are keyed by frame number and may have any resolution.

    The flow model fills `amodal`, and `amodal_probability` if refiners follow. A refiner fills
    `modal` and `modal_probability`. An empty modal mask states that the object is not visible; a
    frame without a modal mask shows the amodal mask less what is visible in front of it. Together
    they make the masks of a frame, see `frame_masks`.
    """

    id: int  # from 1, in order of appearance; refiners never change it
    rank: int  # depth over the whole video, 0 in front
    shot: int
    amodal: dict[int, StoredMask] = field(default_factory=dict)  # empty masks are left out
    modal: dict[int, StoredMask] = field(default_factory=dict)
    # In every frame of the windows in which the object was found, also where its mask is empty.
    amodal_probability: dict[int, StoredProbability] = field(default_factory=dict)
    modal_probability: dict[int, StoredProbability] = field(default_factory=dict)
    # Of the visible masks, as the refiner `select` predicts it; higher = better.
    quality: dict[int, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Mean of the amodal masks' scores, 0 for a track without amodal masks."""
        return float(np.mean([mask.score for mask in self.amodal.values()] or [0.0]))

    def frame_score(self, frame: int) -> float:
        """Score of the modal mask if it is not empty, else of the amodal mask, else 0."""
        stored = [masks[frame] for masks in (self.modal, self.amodal) if frame in masks]
        return next((mask.score for mask in stored if mask.score > 0), 0.0)

    def at_frames(self, positions: Sequence[int]) -> "Track":
        """The same object in a video whose frame i shows frame positions[i] of this one.

        Probabilities and qualities, which only refiners need, are left out.
        """
        places = list(enumerate(positions))
        amodal, modal = (
            {frame: masks[place] for frame, place in places if place in masks}
            for masks in (self.amodal, self.modal)
        )
        return Track(self.id, self.rank, self.shot, amodal, modal)


def frame_masks(
    tracks: Sequence[Track], frame: int, height: int, width: int
) -> tuple[UInt8[np.ndarray, "height width"], dict[int, Bool[np.ndarray, "height width"]]]:
    """Composes one frame at the given size.

    From front to back, every object takes the pixels of its modal mask, or else of its amodal mask,
    that no object in front of it has taken.

    A modal mask that is not empty also decides about the whole object, which is where it is visible
    and, of its amodal mask, where objects in front of it are.

    Returns the id of the object that is visible at each pixel (0 for none), and by id the amodal
    masks, none of which is empty, of the objects that are present.
    """
    ids, amodal = np.zeros((height, width), np.uint8), {}
    for track in sorted(tracks, key=lambda track: track.rank):
        whole = np.zeros((height, width), bool)
        if frame in track.amodal:
            whole = resize_mask(track.amodal[frame].decode(), height, width)
        modal = whole
        in_front = ids > 0
        if frame in track.modal:
            modal = resize_mask(track.modal[frame].decode(), height, width)
            if modal.any():
                whole = (modal & ~in_front) | (whole & in_front)
        ids[modal & ~in_front] = track.id
        amodal[track.id] = whole
    return ids, {id: mask for id, mask in amodal.items() if mask.any()}


def compose_modal(
    amodal_front_to_back: Sequence[Bool[np.ndarray, "*t h w"]],
) -> list[Bool[np.ndarray, "*t h w"]]:
    """Visible parts of amodal masks given front to back: each loses what lies in front of it."""
    modal, covered = [], None
    for mask in amodal_front_to_back:
        modal.append(mask.copy() if covered is None else mask & ~covered)
        covered = mask.copy() if covered is None else covered | mask
    return modal


def modal_layers(
    amodal: Bool[np.ndarray, "t h w k"], order: Real[np.ndarray, "k"]
) -> Bool[np.ndarray, "t h w k"]:
    """Visible parts of a window's layers, whose pseudo-depths are `order`, lowest in front."""
    front_to_back = np.argsort(order, kind="stable")
    modal = np.empty_like(amodal)
    visible = compose_modal([amodal[..., layer] for layer in front_to_back])
    modal[..., front_to_back] = np.stack(visible, axis=-1)
    return modal
