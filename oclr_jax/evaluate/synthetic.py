"""Synthetic data: modal J, amodal J and depth order, as in table 1 of the first paper."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from oclr_jax.datasets.built import open_built
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.scores import Record
from oclr_jax.flow import FlowFolder, FrameFlow, resize_flow
from oclr_jax.flow.gaps import take_gaps
from oclr_jax.oclr.predict import Segmenter, predict_windows
from oclr_jax.ops.metrics import assign, jaccard, order_accuracy
from oclr_jax.tracks import modal_layers
from oclr_jax.video.images import read_image
from oclr_jax.video.names import natural_sorted, without_junk
from oclr_jax.video.png import read_ids
from oclr_jax.video.resize import resize_ids, resize_image

# An object that covers a smaller fraction of a window than this is absent.
_ABSENT = 1e-6
LAYERS = 3  # of every stored example


@dataclass(frozen=True)
class SyntheticSequence:
    """One sequence; flow and masks are read when they are called for."""

    name: str
    flow: Callable[[], Float32[np.ndarray, "t h w 4"]]  # (u, v) at gaps 1 and -1, own pixels
    amodal: Callable[[], Bool[np.ndarray, "t H W k"]]  # layer 0 in front, empty layers last
    # Visible parts, also less what an occluder hides that is not a layer.
    modal: Callable[[], Bool[np.ndarray, "t H W k"]]
    stems: list[str]  # names of the frames
    frame: Callable[[int], UInt8[np.ndarray, "H_frame W_frame 3"]]  # by number, RGB

    def as_benchmark(self) -> BenchmarkSequence:
        """The same for protocols on tracks; the ids of the truth are those of its layers, from 1.

        The truth is enlarged to the size of the frames.
        """
        modal = lru_cache(maxsize=1)(self.modal)

        def annotation(frame: int) -> UInt8[np.ndarray, "h w"]:
            layers = modal()[frame]
            ids = (layers * np.arange(1, layers.shape[-1] + 1, dtype=np.uint8)).max(axis=-1)
            height, width, _ = self.frame(frame).shape
            return resize_ids(ids, height, width)

        every = list(range(len(self.stems)))
        return BenchmarkSequence(
            self.name, self.name, self.stems, self.frame, every, annotation, flow=self.flow
        )


def synthetic_title(name: str, data: str | os.PathLike) -> str:
    """What the tables call a synthetic dataset."""
    return f"{name} ({Path(data).resolve().parent.name})" if name == "oclr_syn" else "Syn-Val"


def find_synthetic(name: str, data: str | os.PathLike) -> list[SyntheticSequence]:
    """Finds the sequences of a built `oclr_syn` (any configuration) or of the released Syn-Val.

    Raises UserError if `data` is not the dataset `name`.
    """
    return _built(data) if name == "oclr_syn" else _released(Path(data))


def _built(data: str | os.PathLike) -> list[SyntheticSequence]:
    source, metadata = open_built("oclr_syn", data)
    stems = [f"{frame:05d}" for frame in range(metadata["scene"]["frames"])]

    @lru_cache(maxsize=1)  # a record is decoded as a whole, and sequences are read in order
    def example(index: int) -> dict[str, Any]:
        return source[index]

    def flow(index: int) -> Float32[np.ndarray, "t h w 4"]:
        parts = [example(index)[f"estimated_{way}_flow"] for way in ("forward", "backward")]
        return np.concatenate(parts, axis=-1).astype(np.float32)

    return [
        SyntheticSequence(
            f"validation_{index:06d}",
            lambda index=index: flow(index),
            lambda index=index: example(index)["amodal_segmentations"] > 0,
            lambda index=index: (
                example(index)["video"]["segmentations"] == np.arange(1, LAYERS + 1, dtype=np.uint8)
            ),
            stems,
            lambda frame, index=index: np.asarray(example(index)["video"]["frames"][frame]),
        )
        for index in range(len(source))
    ]


def _released(root: Path) -> list[SyntheticSequence]:
    """The published layout: `AmodalAnnotations/<seq>/<layer>_<frame>.png`, layer 1 at the back.

    The first character of a sequence's name is its number of objects.
    """
    frames, truth = root / "JPEGImages", root / "AmodalAnnotations"
    if not (frames.is_dir() and truth.is_dir()):
        raise UserError(
            f"{root} does not have the layout of Syn-Val: JPEGImages/<sequence>, "
            "AmodalAnnotations/<sequence>, Flows_gap1/<sequence> and Flows_gap-1/<sequence>."
        )
    names = sorted(path.name for path in without_junk(frames.iterdir()) if path.name[0] in "123")
    if not names:
        raise UserError(f"{frames} has no sequence whose name begins with its number of objects.")

    @cache
    def files(name: str) -> list[Path]:
        return natural_sorted(without_junk((frames / name).iterdir()))

    def stems(name: str) -> list[str]:
        return [path.stem for path in files(name)]

    def flow(name: str) -> Float32[np.ndarray, "t h w 4"]:
        return np.stack(list(FlowFolder(root, stems(name), (1, -1), sequence=name)))

    def amodal(name: str) -> Bool[np.ndarray, "t H W k"]:
        front_to_back = range(int(name[0]), 0, -1)
        paths = [
            [truth / name / f"{layer}_{stem}.png" for layer in front_to_back]
            for stem in stems(name)
        ]
        return np.stack([np.stack([read_ids(p) > 127 for p in row], axis=-1) for row in paths])

    return [
        SyntheticSequence(
            name,
            lambda name=name: flow(name),
            lambda name=name: amodal(name),
            lambda name=name: composed(amodal(name)),
            stems(name),
            lambda frame, name=name: np.ascontiguousarray(read_image(files(name)[frame])),
        )
        for name in names
    ]


def composed(amodal: Bool[np.ndarray, "t H W k"]) -> Bool[np.ndarray, "t H W k"]:
    """The visible parts of objects that are given front to back."""
    return modal_layers(amodal, np.arange(amodal.shape[-1]))


def score_synthetic(segmenter: Segmenter, sequence: SyntheticSequence) -> Record:
    """Computes the metrics of one sequence under `paper`.

    In each window of T frames, modal and amodal masks are matched to the ground truth separately,
    on mean IoU. J of a frame is the mean over the objects that are present in its window; a frame
    of two windows has the mean of both. Depth order is scored on pairs of objects that occlude each
    other, matched by their amodal masks. First paper, section 4.2 and table 1; the rule of the
    published program.
    """
    model, amodal, modal = segmenter.info.model, sequence.amodal(), sequence.modal()
    fields = take_gaps(sequence.flow(), (1, -1), model.gaps)
    fields = resize_flow(fields, model.height, model.width)
    # Besides tracking, only some models look at the frames themselves.
    images = np.zeros((len(fields), model.height, model.width, 3), np.uint8)
    if segmenter.sees_frames:
        for number, image in enumerate(images):
            image[:] = resize_image(sequence.frame(number), model.height, model.width)
    pairs = enumerate(zip(fields, images, strict=True))
    flows = [FrameFlow(0, number, *pair) for number, pair in pairs]
    values: dict[int, list[tuple[float, float]]] = {}
    right = pairs = 0
    for layers in predict_windows(segmenter, flows):
        found, order = layers.probability > 0.5, layers.order
        frames = range(layers.start, layers.start + len(found))
        seen = modal_layers(found, order)
        modal_j, _ = _frame_j(_nearest(seen, modal.shape[1:3]), modal[frames])
        amodal_j, partner = _frame_j(_nearest(found, amodal.shape[1:3]), amodal[frames])
        for frame, one, other in zip(frames, modal_j, amodal_j, strict=True):
            values.setdefault(frame, []).append((float(one), float(other)))
        objects = sorted(partner)
        depth = order[[partner[object] for object in objects]]
        true_depth = np.array(objects)
        now, all_pairs = order_accuracy(depth, true_depth, amodal[frames][..., objects])
        right, pairs = right + now, pairs + all_pairs
    by_frame = np.array([np.mean(values[frame], axis=0) for frame in sorted(values)])
    figures = {"J": float(by_frame[:, 0].mean()), "J_amodal": float(by_frame[:, 1].mean())}
    entry = {"frames": "all", "objects": {"all": figures}, **figures}
    return {"paper": entry | {"count": len(by_frame), "pairs": pairs, "pairs_right": right}}


def summarize_synthetic(records: dict[str, Record]) -> dict[str, dict[str, float]]:
    """Means over all frames; accuracy of depth order over all occluding pairs, if there are any."""
    entries = [record["paper"] for record in records.values()]
    counts = [entry["count"] for entry in entries]
    means = {
        name: float(np.average([entry[name] for entry in entries], weights=counts))
        for name in ("J", "J_amodal")
    }
    pairs = sum(entry["pairs"] for entry in entries)
    if pairs:
        means["order"] = sum(entry["pairs_right"] for entry in entries) / pairs
    return {"paper": means}


def _frame_j(
    found: Bool[np.ndarray, "t H W n"], truth: Bool[np.ndarray, "t H W k"]
) -> tuple[Float64[np.ndarray, "t"], dict[int, int]]:
    """J of each frame, the mean over the objects in the window; and the layer of each object."""
    tables = np.array(
        [
            [jaccard(found[..., layer], truth[..., object]) for object in range(truth.shape[-1])]
            for layer in range(found.shape[-1])
        ]
    )
    partner = {object: layer for layer, object in assign(tables.mean(axis=2))}
    present = [o for o in partner if truth[..., o].mean() > _ABSENT]
    if not present:
        return np.zeros(len(truth)), {}
    j = np.mean([tables[partner[object], object] for object in present], axis=0)
    return j, {object: partner[object] for object in present}


def _nearest(
    masks: Bool[np.ndarray, "t h w n"], size: tuple[int, ...]
) -> Bool[np.ndarray, "t H W n"]:
    """Masks at the truth's resolution; the pixel at the top left of each, as published."""
    height, width = size
    if masks.shape[1:3] == (height, width):
        return masks
    return np.stack([resize_ids(frame.astype(np.uint8), height, width) for frame in masks]) > 0
