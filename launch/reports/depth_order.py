"""Depth order of tracks on a generated dataset, where it is known.

`python launch/reports/depth_order.py data/oclr_syn/syn_val/2.0.0` segments each clip and compares
the depth order of the result with the truth, over the pairs of objects that overlap in any frame
(true amodal masks). Tracks are matched to objects on the mean IoU of their visible masks
(Hungarian). For each least IoU of both objects:

  pairs     that overlap
  found     of which both objects have a track with at least this IoU
  right     found pairs in the right order
  accuracy  right / found

The order of a pair that is not found is not defined, so it does not count.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("depth_order", "data"):
    sys.exit(BAD_INPUT)

import numpy as np
from jaxtyping import Bool, UInt8

from oclr_jax.cli.options import refiner_names
from oclr_jax.evaluate.protocols import overlaps
from oclr_jax.evaluate.synthetic import find_synthetic
from oclr_jax.ops.metrics import assign, present_ids
from oclr_jax.pipeline import segment_video
from oclr_jax.video.clip import progress
from oclr_jax.video.resize import resize_ids

LEAST_IOU = (0.1, 0.3, 0.5)


def score_pairs(
    masks: UInt8[np.ndarray, "t h w"],
    order: list[int],
    ids: UInt8[np.ndarray, "t h w"],
    amodal: Bool[np.ndarray, "t H W k"],
) -> Iterator[tuple[float, bool]]:
    """Scores each pair of objects that overlap.

    Args:
      masks: ids of the tracks.
      order: of the tracks, front to back.
      ids: of the visible objects, layer + 1.
      amodal: true masks, layer 0 in front.

    Yields the IoU of the worse object, 0 if it has no track, and whether the order is right.
    """
    tracks, objects = present_ids(masks), list(range(1, amodal.shape[-1] + 1))
    similarity = overlaps(masks, tracks, ids, objects).mean(axis=2)
    track_of = {objects[j]: (tracks[i], similarity[i, j]) for i, j in assign(similarity)}
    for front, back in combinations(objects, 2):
        if (amodal[..., front - 1] & amodal[..., back - 1]).any():
            (one, good), (other, well) = (track_of.get(id, (0, 0.0)) for id in (front, back))
            found = one and other
            right = bool(found) and order.index(one) < order.index(other)
            yield float(min(good, well)), right


def measure(
    dataset: str, weights: str | None, refine: Sequence[str] | None, limit: int, quiet: bool
) -> dict[float, tuple[int, int, int]]:
    """(pairs, found, right) by least IoU."""
    sequences = find_synthetic("oclr_syn", dataset)[: limit or None]
    scores: list[tuple[float, bool]] = []
    for sequence in progress(sequences, "segmenting", len(sequences), quiet):
        truth = sequence.as_benchmark()
        result = segment_video(np.stack(list(truth.frames())), weights, refine=refine)
        ids = np.stack([truth.annotation(frame) for frame in truth.annotated])
        masks = np.stack([resize_ids(mask, *ids.shape[1:]) for mask in result.masks])
        scores += score_pairs(masks, result.order, ids, sequence.amodal())
    found = {least: [right for iou, right in scores if iou >= least] for least in LEAST_IOU}
    return {least: (len(scores), len(these), sum(these)) for least, these in found.items()}


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="folder with the dataset's dataset_info.json")
    parser.add_argument("--weights", help="name or file (default: shipped weights)")
    parser.add_argument("--refine", metavar="NAMES", help="as of oclr segment (default: self)")
    parser.add_argument("--limit", type=int, default=0, help="sequences; 0: all (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    refine = refiner_names(options.refine)

    def run() -> None:
        found = measure(options.dataset, options.weights, refine, options.limit, options.quiet)
        print("| least IoU | pairs | found | right | accuracy |\n|---|---|---|---|---|")
        for least, (pairs, known, right) in found.items():
            share = f"{right / known:.2f}" if known else "-"
            print(f"| {least} | {pairs} | {known} | {right} | {share} |")

    return run_command("depth_order", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
