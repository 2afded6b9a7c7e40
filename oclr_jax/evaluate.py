"""A dataset in, a table of J out, with the protocol's name beside every number."""

import dataclasses
import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.inference import (
    FrameFlow,
    Segmenter,
    find_tracks,
    frame_masks,
    load_segmenter,
    open_source,
    predict_window,
    resize_mask,
    stream_flow,
)
from oclr_jax.ops.metrics import assign, jaccard
from oclr_jax.results import check_output, staged_results
from oclr_jax.tracking import compose_modal
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.overlay import paint_ids
from oclr_jax.video.png import read_ids, write_ids
from oclr_jax.video.writer import video_writer
from oclr_jax.windows import frame_groups

# What each protocol does.
PROTOCOLS = {
    "paper": "windows of T frames, in each the layers that match the truth best, no stitching",
    "sequence-oracle": "objects followed over the sequence, those that match the truth best",
    "union": "objects followed over the sequence, all of them against all of the truth",
}
# Datasets whose folder is not called as they are.
LABELS = {"davis2016_dev": "DAVIS2016 dev-4"}
# What `--output` of an evaluation holds.
KEPT = ("metrics.json", "masks", "overlays")


@dataclasses.dataclass(frozen=True)
class Truth:
    """The annotation of a sequence."""

    frames: list[int]  # numbers of the annotated frames
    objects: Bool[np.ndarray, "o t h w"]  # t counts annotated frames
    binary: bool  # drawn as one foreground, 0 and 255, as in DAVIS2016

    @property
    def counted(self) -> slice:
        """Annotated frames that count: DAVIS2016's evaluator leaves out the first and the last."""
        return slice(1, -1) if self.binary and len(self.frames) > 2 else slice(None)


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """What was measured on one sequence."""

    name: str
    scores: dict[str, float]  # mean J by protocol
    counted: str  # which frames count
    masks: dict[str, UInt8[np.ndarray, "t h w"]]  # what was scored, as `paper` and as `tracks`


def find_sequences(data: str | os.PathLike) -> list[tuple[Path, Path]]:
    """(folder of frames, folder of annotations) of each sequence of a DAVIS-like folder.

    `JPEGImages/480p/<sequence>` and `Annotations/480p/<sequence>`, or both without `480p`.
    """
    data = Path(data)
    if not data.is_dir():
        raise UserError(f"The dataset folder {data} does not exist; check the path.")
    for resolution in ("480p", ""):
        frames, annotations = (data / part / resolution for part in ("JPEGImages", "Annotations"))
        if frames.is_dir() and annotations.is_dir():
            break
    else:
        raise UserError(
            f"{data} is not laid out as DAVIS is; it needs the folders JPEGImages and Annotations."
        )
    names = sorted(path.name for path in frames.iterdir() if path.is_dir())
    if not names:
        raise UserError(
            f"{frames} holds no sequences; put one folder of frames per sequence there."
        )
    for name in names:
        if not (annotations / name).is_dir():
            raise UserError(f"The sequence {name} has no annotations; add {annotations / name}.")
    return [(frames / name, annotations / name) for name in names]


def read_truth(folder: Path, clip: Clip) -> Truth:
    """Reads the annotations of a clip; frames without one do not count.

    Each value but 0 is an object. Raises UserError where none fits the frames.
    """
    frames = [i for i, stem in enumerate(clip.stems) if (folder / f"{stem}.png").is_file()]
    if not frames:
        raise UserError(f"{folder} holds no annotation that is named as a frame of {clip.name}.")
    ids = []
    for frame in frames:
        path = folder / f"{clip.stems[frame]}.png"
        ids.append(read_ids(path))
        if ids[-1].shape != (clip.height, clip.width):
            raise UserError(
                f"The annotation {path} is {ids[-1].shape[1]}x{ids[-1].shape[0]} and its frame "
                f"{clip.width}x{clip.height}; they must have one size."
            )
    ids = np.stack(ids)
    values = [value for value in np.unique(ids) if value]
    if not values:
        raise UserError(f"The annotations in {folder} are all empty, so nothing can be measured.")
    return Truth(frames, np.stack([ids == value for value in values]), binary=values == [255])


def evaluate_sequence(
    segmenter: Segmenter,
    clip: Clip,
    truth: Truth,
    flow: str | os.PathLike | None = None,
    protocols: tuple[str, ...] = tuple(PROTOCOLS),
) -> SequenceResult:
    """Segments one sequence, taken as a single shot, and measures it under each protocol."""
    clip = dataclasses.replace(clip, shots=[range(len(clip.stems))])
    source = open_source(flow, segmenter.info, clip)
    flows = list(stream_flow(clip, source, segmenter.info.model))
    scores, masks = {}, {}
    if "paper" in protocols:
        matched = paper_masks(segmenter, flows, truth, clip)
        scores["paper"] = _mean_j(matched[:, truth.frames], truth)
        masks["paper"] = _ids(matched)
    if {"sequence-oracle", "union"} & set(protocols):
        tracks, _ = find_tracks(segmenter, flows)
        size = (clip.height, clip.width)
        ids = np.stack([frame_masks(tracks, frame, *size)[0] for frame in range(len(clip.stems))])
        masks["tracks"] = ids
        seen = ids[truth.frames]
        found = np.array([seen == track.id for track in tracks], bool)
        found = found.reshape(len(tracks), *seen.shape)
    if "sequence-oracle" in protocols:
        scores["sequence-oracle"] = _mean_j(_matched(found, truth.objects)[0], truth)
    if "union" in protocols:
        whole = dataclasses.replace(truth, objects=truth.objects.any(axis=0)[None])
        scores["union"] = _mean_j((seen > 0)[None], whole)
    counted = "all but first and last" if truth.counted != slice(None) else "all"
    return SequenceResult(clip.name, {name: scores[name] for name in protocols}, counted, masks)


def paper_masks(
    segmenter: Segmenter, flows: list[FrameFlow], truth: Truth, clip: Clip
) -> Bool[np.ndarray, "o t h w"]:
    """Masks of each annotated object in every frame, as the published evaluation has them.

    Per window without overlap (the last one moved back, a short sequence padded with its last
    frame) the visible parts of the layers are matched to the truth on mean IoU (Hungarian); a later
    window replaces the frames it shares with the one before. An object without a layer is empty.
    """
    masks = np.zeros((len(truth.objects), len(flows), clip.height, clip.width), bool)
    index_of = {frame: index for index, frame in enumerate(truth.frames)}
    for group in frame_groups(len(flows), segmenter.info.model.frames):
        frames = sorted(set(group))
        probability, order = predict_window(segmenter, np.stack([flows[i].flow for i in group]))
        found = _visible_layers(probability[: len(frames)], order, clip)
        shared = [(at, index_of[frame]) for at, frame in enumerate(frames) if frame in index_of]
        if not shared:
            continue
        at, index = (list(numbers) for numbers in zip(*shared, strict=True))
        _, pairs = _matched(found[:, at], truth.objects[:, index])
        masks[:, frames] = False
        for layer, object in pairs:
            masks[object, frames] = found[layer]
    return masks


def _visible_layers(
    probability: Float32[np.ndarray, "t a b k"], order: Float32[np.ndarray, "k"], clip: Clip
) -> Bool[np.ndarray, "k t h w"]:
    layers = np.zeros((order.size, len(probability), clip.height, clip.width), bool)
    front_to_back = np.argsort(order, kind="stable")
    for frame, amodal in enumerate(probability > 0.5):
        modal = compose_modal([amodal[..., layer] for layer in front_to_back])
        for layer, mask in zip(front_to_back, modal, strict=True):
            layers[layer, frame] = resize_mask(mask, clip.height, clip.width)
    return layers


def _matched(
    found: Bool[np.ndarray, "k t h w"], objects: Bool[np.ndarray, "o t h w"]
) -> tuple[Bool[np.ndarray, "o t h w"], list[tuple[int, int]]]:
    """The found masks that fit the objects best (mean IoU, Hungarian), empty for those without."""
    similarity = np.array([[jaccard(f, o).mean() for o in objects] for f in found])
    pairs = assign(similarity.reshape(len(found), len(objects)))
    matched = np.zeros_like(objects)
    for one, object in pairs:
        matched[object] = found[one]
    return matched, pairs


def _mean_j(found: Bool[np.ndarray, "o t h w"], truth: Truth) -> float:
    return float(jaccard(found[:, truth.counted], truth.objects[:, truth.counted]).mean())


def _ids(masks: Bool[np.ndarray, "o t h w"]) -> UInt8[np.ndarray, "t h w"]:
    ids = np.zeros(masks.shape[1:], np.uint8)
    for id, mask in enumerate(masks, start=1):
        ids[mask] = id
    return ids


def evaluate_folder(
    data: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    protocols: tuple[str, ...] = tuple(PROTOCOLS),
    output: str | os.PathLike | None = None,
    quiet: bool = False,
) -> dict:
    """Evaluates every sequence of a dataset folder; see `find_sequences` for its layout.

    Returns what metrics.json holds: dataset, weights, flow, protocols, J by sequence and protocol
    and their means over sequences. With `output`, a folder that is written whole or not at all,
    metrics.json, the scored masks and overlays of them are kept. Raises UserError for bad input.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown:
        raise UserError(f"There is no protocol {unknown[0]!r}; choose from {', '.join(PROTOCOLS)}.")
    if output:
        check_output(output, names=KEPT)
    sequences = find_sequences(data)
    segmenter = load_segmenter(weights)
    with staged_results(output, KEPT) if output else nullcontext() as folder:
        results = []
        for frames, annotations in progress(sequences, "sequences", len(sequences), quiet):
            clip = open_clip(frames)
            truth = read_truth(annotations, clip)
            result = evaluate_sequence(segmenter, clip, truth, flow, protocols)
            if folder:
                _keep_masks(folder, clip, result)
            results.append(dataclasses.replace(result, masks={}))
        report = _report(data, segmenter, flow, results)
        if folder:
            text = json.dumps(report, indent=1)
            (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return report


def _report(data, segmenter: Segmenter, flow, results: list[SequenceResult]) -> dict:
    folder = Path(data).resolve().name
    protocols = list(results[0].scores)
    return {
        "dataset": LABELS.get(folder, folder),
        "weights": segmenter.info.name,
        "flow": segmenter.info.flow if flow is None else os.fspath(flow),
        "protocols": {name: PROTOCOLS[name] for name in protocols},
        "sequences": {
            result.name: {"J": result.scores, "frames": result.counted} for result in results
        },
        "mean_J": {
            name: float(np.mean([result.scores[name] for result in results])) for name in protocols
        },
    }


def format_table(report: dict) -> str:
    """The report as lines of text, the protocol's name beside every number."""
    protocols = list(report["protocols"])
    width = max(len(name) for name in [*report["sequences"], "mean over sequences"])
    lines = [f"{report['dataset']}, weights {report['weights']}, region similarity J"]
    lines += [f"  {name}: {what}" for name, what in report["protocols"].items()]
    rows = {name: (entry["J"], entry["frames"]) for name, entry in report["sequences"].items()}
    rows["mean over sequences"] = (report["mean_J"], "")
    for name, (scores, counted) in rows.items():
        numbers = "   ".join(f"{protocol} {scores[protocol]:.3f}" for protocol in protocols)
        lines.append(f"{name:<{width}}   {numbers}" + (f"   ({counted} frames)" if counted else ""))
    return "\n".join(lines)


def _keep_masks(folder: Path, clip: Clip, result: SequenceResult) -> None:
    """Writes masks/<protocol>/<sequence>/<stem>.png and overlays/<sequence>_<protocol>.mp4."""
    for kind, masks in result.masks.items():
        for stem, ids in zip(clip.stems, masks, strict=True):
            write_ids(folder / "masks" / kind / clip.name / f"{stem}.png", ids)
        path = folder / "overlays" / f"{clip.name}_{kind}.mp4"
        with video_writer(path, clip.fps, clip.height, clip.width) as add_frame:
            for frame, ids in zip(clip.frames(), masks, strict=True):
                add_frame(paint_ids(frame, ids))
