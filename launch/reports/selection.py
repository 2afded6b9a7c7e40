"""Average precision of mask selectors on a generated dataset, as in table 3 of the second paper.

`python launch/reports/selection.py data/oclr_syn/syn_val/2.0.0 --refine-weights DIR` takes a
dataset whose predicted masks launch/predict_masks.py has stored. Of the masks of an object, the ten
of highest and the ten of lowest IoU are to be told apart. A selector whose weights are missing is
listed without a figure.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("selection", "data"):
    sys.exit(BAD_INPUT)

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_pipelines.loaders.rgb_clips import make_rgb_clip_loader
from data_pipelines.loaders.sequences import open_dataset
from oclr_jax.errors import UserError
from oclr_jax.files import write_json
from oclr_jax.oclr.tta.backbone import Backbone, load_backbone, working_size
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.keyframe import check_frames, object_errors
from oclr_jax.oclr.tta.propagation import object_masks
from oclr_jax.ops.selection import selection_ap
from oclr_jax.refine.appearance_models import AppearanceModel, load_appearance_model
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.refine.select import judge_masks
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.train.tasks.masks_and_frames import matched_masks, object_iou
from oclr_jax.video.clip import Clip, progress
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.resize import resize_ids, resize_image
from oclr_jax.video.times import even_times

# Average precision on DAVIS2017-motion in table 3 of the second paper.
PUBLISHED = {"random": 0.568, "propagation": 0.830, "score": 0.832, "error map": 0.893}
COLOURS = "colours"  # `--features` without weights
COLOUR_PATCH = 16  # pixels
_DRAWS = 200  # of random selection, for each object


@dataclasses.dataclass(frozen=True)
class Masks:
    """The predicted masks of the objects of a clip."""

    frames: UInt8[np.ndarray, "t h w 3"]
    ids: UInt8[np.ndarray, "t h w"]  # 0: no object
    objects: list[int]  # ids of the objects that count
    iou: Float[np.ndarray, "t k"]  # with the truth, of the same objects


# The quality of every mask of a clip, higher = better.
Selector = Callable[[Masks], Float[np.ndarray, "t k"]]
# From frames, their height and width to features of unit length on the grid of the patches.
Features = Callable[
    [Iterable[UInt8[np.ndarray, "H W 3"]], int, int], Iterator[Float[Array, "h w c"]]
]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder with the dataset_info.json")
    parser.add_argument(
        "--predicted", default="oclr-small", help="name of the masks (default: %(default)s)"
    )
    parser.add_argument(
        "--refine-weights", help="folder with a selector of error maps (default: the usual one)"
    )
    parser.add_argument("--score-weights", help="folder with a selector of scores")
    parser.add_argument(
        "--features",
        default=TTAConfig().weights,
        help=f"what propagation compares: weights, or {COLOURS} (default: %(default)s)",
    )
    parser.add_argument("--clips", type=int, default=0, help="how many; 0: all of validation")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return run_command("selection", lambda: _report(options))


def _report(options: argparse.Namespace) -> None:
    selectors, missing = {}, {}
    for name, opened in _openers(options).items():
        try:
            selectors[name] = opened()
        except UserError as error:
            missing[name] = str(error)
    clips = predicted_clips(options.dataset, options.predicted, options.clips)
    rows = measure(progress(clips, "clips", None, options.quiet), selectors)
    report = {
        "dataset": str(options.dataset),
        "predicted": options.predicted,
        "rows": rows,
        "not_measured": missing,
    }
    if options.output:
        write_json(options.output, report)
    print(format_rows(report))


def _openers(options: argparse.Namespace) -> dict[str, Callable[[], Selector]]:
    """What opens the selector of each row of the table; it may raise UserError."""

    def propagation() -> Selector:
        if options.features == COLOURS:
            config, features, patch = TTAConfig(), colour_features, COLOUR_PATCH
        else:
            config = TTAConfig(weights=options.features)
            backbone = load_backbone(config)
            features, patch = partial(backbone_features, backbone), backbone.config.patch
        return lambda masks: propagation_quality(features, patch, config, masks)

    def score() -> Selector:
        if not options.score_weights:
            raise UserError("Give a folder with a selector of scores with --score-weights.")
        return trained_selector(load_appearance_model("selector", options.score_weights), "score")

    def error_map() -> Selector:
        model = load_appearance_model("selector", options.refine_weights)
        return trained_selector(model, "error_map")

    return {"propagation": propagation, "score": score, "error map": error_map}


def predicted_clips(dataset: Path, predicted: str, count: int = 0) -> Iterator[Masks]:
    """Yields the validation clips of a dataset with masks that were predicted for them.

    All fields are at the resolution at which the dataset was rendered. The predicted layers are
    matched to the objects by their mean IoU over the clip.

    Args:
      dataset: its folder.
      predicted: name of the masks.
      count: how many clips, 0 for all.

    Raises:
      UserError: as `make_rgb_clip_loader`.
    """
    scene = dict(open_dataset(dataset).metadata)["scene"]
    size = {"height": scene["render_height"], "width": scene["render_width"]}
    loader = make_rgb_clip_loader(
        dataset,
        "validation",
        frames=scene["frames"],
        **size,
        train=False,
        predicted=predicted,
        batch_size=1,
    )
    match = jax.jit(matched_masks)
    for number in range(min(count, len(loader)) if count else len(loader)):
        batch = loader[number]
        fields = ("modal", "predicted", "predicted_order")
        masks, truth = match({name: batch[name] for name in fields})
        iou = np.asarray(object_iou(masks, truth)[0])[0]
        layers = np.arange(1, masks.shape[-1] + 1, dtype=np.uint8)
        ids = (np.asarray(masks[0]) * layers).max(axis=-1).astype(np.uint8)
        # Where all masks of an object are equally good, there is nothing to select.
        objects = [int(k) for k in np.flatnonzero(iou.max(axis=0) > iou.min(axis=0))]
        yield Masks(batch["rgb"][0], ids, [k + 1 for k in objects], iou[:, objects])


def measure(clips: Iterator[Masks], selectors: dict[str, Selector]) -> dict[str, dict[str, Any]]:
    """Mean average precision over all objects, by selector, and the number of objects."""
    rng = np.random.default_rng(0)
    precisions = jax.jit(jax.vmap(selection_ap, (0, None)))
    found: dict[str, list[float]] = {name: [] for name in ("random", *selectors)}
    for masks in clips:
        if not masks.objects:
            continue
        qualities = {name: select(masks) for name, select in selectors.items()}
        for column, iou in enumerate(masks.iou.T):
            draws = precisions(rng.random((_DRAWS, len(iou))), iou)
            found["random"].append(float(np.mean(draws)))
            for name, quality in qualities.items():
                found[name].append(float(precisions(quality[None, :, column], iou)[0]))
    if not found["random"]:
        raise UserError("The dataset has no object whose masks differ; predict other masks.")
    return {
        name: {"ap": float(np.mean(values)), "objects": len(values)}
        for name, values in found.items()
    }


def trained_selector(model: AppearanceModel, predicts: str) -> Selector:
    """The refiner `select`; raises UserError if the model does not predict what it should."""
    if model.config.predicts != predicts:
        raise UserError(
            f"The selector {model.info.name} predicts {model.config.predicts}, not {predicts}; "
            "give another folder of weights."
        )

    def select(masks: Masks) -> Float[np.ndarray, "t k"]:
        video, tracks = as_tracks(masks)
        shot = range(len(masks.frames))
        columns = []
        for track in tracks:
            if track.id in masks.objects:
                judged = judge_masks(model, video, tracks, track, shot)
                columns.append([judged[frame][0] for frame in shot])
        return np.array(columns).T

    return select


def as_tracks(masks: Masks) -> tuple[RefinerVideo, list[Track]]:
    """A clip and its masks as refiners take them."""
    count, height, width, _ = masks.frames.shape
    stems, shot = [f"{frame:05d}" for frame in range(count)], range(count)
    times = even_times(count, FOLDER_FPS)
    clip = Clip(
        *("clip", stems, height, width, FOLDER_FPS, times, [shot]), lambda: iter(masks.frames)
    )
    tracks = []
    for id in (int(id) for id in np.unique(masks.ids) if id):
        here = {frame: ids == id for frame, ids in enumerate(masks.ids)}
        stored = {
            frame: StoredMask.encode(mask, mask.astype(np.float32)) for frame, mask in here.items()
        }
        tracks.append(Track(id, rank=id, shot=0, amodal=stored))
    return RefinerVideo(clip, (1, -1), (height, width), True), tracks


def propagation_quality(
    features: Features, patch: int, config: TTAConfig, masks: Masks
) -> Float[np.ndarray, "t k"]:
    """The selection of the first paper: masks that propagation from the frames before confirms.

    The quality is the negative error of the consistency check of test-time adaptation. The first
    frame and frames without an object have no error; they are ranked last.
    """
    size = working_size(*masks.frames.shape[1:3], config)
    frames = (resize_image(frame, *size) for frame in masks.frames)
    given = (
        object_masks(resize_ids(ids, *size)[::patch, ::patch], masks.objects) for ids in masks.ids
    )
    checked = check_frames(features(frames, *size), given, config)
    errors = [object_errors(*pair) for pair in checked]
    errors = np.stack([np.full(len(masks.objects), np.nan), *errors])
    return np.where(np.isnan(errors), -np.inf, -errors)


def colour_features(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], height: int, width: int
) -> Iterator[Float[Array, "h w 48"]]:
    """Features without weights: the colours of 4x4 parts of each patch, of unit length.

    The mean colour of each frame is subtracted first.
    """
    h, w = height // COLOUR_PATCH, width // COLOUR_PATCH
    for frame in frames:
        parts = cv2.resize(frame, (4 * w, 4 * h), interpolation=cv2.INTER_AREA).astype(np.float32)
        parts = parts - parts.mean(axis=(0, 1))
        patches = parts.reshape(h, 4, w, 4, 3).swapaxes(1, 2).reshape(h, w, -1)
        norms = np.linalg.norm(patches, axis=-1, keepdims=True)
        yield jnp.asarray(patches / np.maximum(norms, 1e-12))


def backbone_features(
    backbone: Backbone, frames: Iterable[UInt8[np.ndarray, "H W 3"]], height: int, width: int
) -> Iterator[Float[Array, "h w c"]]:
    """The features of a model."""
    for tokens in backbone.frozen_tokens(frames):
        yield backbone.features(tokens, height, width)


def format_rows(report: dict[str, Any]) -> str:
    """The table as lines of text, the published figures of another dataset beside it."""
    lines = [f"average precision on {report['dataset']}, masks {report['predicted']}"]
    for name, published in PUBLISHED.items():
        row = report["rows"].get(name)
        if row:
            figure = f"{row['ap']:.3f} ({row['objects']} objects)"
        else:
            figure = f"not measured: {report['not_measured'][name]}"
        lines.append(f"{name:<12} {figure}   (DAVIS2017-motion, published: {published:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
